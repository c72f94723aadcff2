"""MQAR: how many associations an operator can recall, by the size of its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.zoo.toys.base import Finding, Toy, seeded
from interp.zoo.toys.training import causal_mask, fit


@dataclass(frozen=True)
class Mqar(Toy):
    """Multi-query associative recall: key-value pairs in random order, then every key again; say its value.

    One layer with a shift by one token, so that a value's position can carry the key before it. Linear attention sums
    outer products of key and value features: its state has a fixed size, whatever the number of pairs. All runs of a
    seed share data and number of steps.

    Measured, seeds 0 to 4: softmax 0.999 to 1; linear 0.980 to 0.987 at 4 pairs, 0.519 to 0.530 at 48, smallest fall
    0.114 to 0.130. Control, wide state: 0.997 to 0.999.

    Attributes:
        keys: number of key tokens; a sequence draws its keys without repetition.
        values: number of value tokens; guessing scores 1 / values.
        pairs: numbers of pairs, few to many.
        width: of the residual stream.
        state: query and key features; the linear state has this many rows.
        batch: sequences a step.
        steps: of training.
        rate: highest learning rate.
    """

    name: ClassVar[str] = "mqar"
    source: ClassVar[str] = (
        "Arora et al. 2023, Zoology: Measuring and Improving Recall in Efficient Language Models, arXiv 2312.04927"
    )
    claim: ClassVar[str] = "Softmax attention recalls any number of pairs; a linear operator of fixed state only a few."

    keys: int = 64
    values: int = 16
    pairs: tuple[int, ...] = (4, 16, 48)
    width: int = 64
    state: int = 8
    batch: int = 32
    steps: int = 200
    rate: float = 1e-2

    def findings(self, seed: int) -> list[Finding]:
        few, most = min(self.pairs), max(self.pairs)
        softmax = [self.accuracy(seed, pairs, self.state, softmax=True) for pairs in self.pairs]
        linear = [self.accuracy(seed, pairs, self.state, softmax=False) for pairs in self.pairs]
        return [
            Finding("Softmax attention recalls any number of pairs: lowest accuracy.", min(softmax), low=0.97),
            Finding(f"Linear attention of the same size recalls {few} pairs: accuracy.", linear[0], low=0.95),
            Finding(f"Linear attention of the same size fails at {most} pairs: accuracy.", linear[-1], high=0.7),
            Finding(
                "Linear attention falls at every step up in the number of pairs: smallest fall.",
                min(before - after for before, after in zip(linear, linear[1:], strict=False)),
                low=0.03,
            ),
            Finding(
                f"Control: linear attention with a state as wide as the {self.keys} keys recalls {most} pairs: accuracy.",
                self.accuracy(seed, most, self.keys, softmax=False),
                low=0.97,
            ),
        ]

    def accuracy(self, seed: int, pairs: int, state: int, *, softmax: bool) -> float:
        """Share of unseen queries answered after training."""
        with seeded(seed):
            model = Recall(self.keys + self.values, self.width, state, self.values, softmax)

            def loss() -> Float[Tensor, ""]:
                tokens, answers = self.draw(self.batch, pairs)
                return nn.functional.cross_entropy(model(tokens)[:, -pairs:].flatten(0, 1), answers.flatten())

            fit(model.parameters(), loss, steps=self.steps, rate=self.rate)
            tokens, answers = self.draw(256, pairs)
            return float((model(tokens)[:, -pairs:].argmax(-1) == answers).float().mean())

    def draw(self, batch: int, pairs: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pairs"]]:
        """Sequences k v k v ... q q, values numbered after the keys, and the answers, numbered from 0."""
        keys = torch.rand(batch, self.keys).argsort(-1)[:, :pairs]
        values = torch.randint(self.values, (batch, pairs))
        order = torch.rand(batch, pairs).argsort(-1)
        told = torch.stack([keys, values + self.keys], -1).flatten(1)
        return torch.cat([told, keys.gather(1, order)], 1), values.gather(1, order)


class Recall(nn.Module):
    """Embedding, one causal layer whose keys come from the token before, and a read-out.

    Args:
        tokens: size of the vocabulary.
        width: of the residual stream.
        state: query and key features.
        values: number of answers.
        softmax: whether weights are softmax of scaled scores; otherwise they are the scores themselves, which is
            linear attention: a state of `state` by `width` numbers.
    """

    def __init__(self, tokens: int, width: int, state: int, values: int, softmax: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.q, self.k = nn.Linear(width, state, bias=False), nn.Linear(width, state, bias=False)
        self.v, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, values)
        self.softmax = softmax

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos value"]:
        x = self.embed(tokens)
        before = nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        scores = self.q(x) @ self.k(before).transpose(-1, -2) / self.q.out_features**0.5
        seen = causal_mask(tokens.shape[1])
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1) if self.softmax else scores * seen
        return self.out(weights @ self.v(x))
