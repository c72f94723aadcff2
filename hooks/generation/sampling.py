"""Which token comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.errors import InterpError


@dataclass(frozen=True)
class Sampling:
    """Drawing at random; each prompt has random numbers of its own, whatever the others do.

    Args:
        temperature: logits are divided by it.
        top_k: only so many of the likeliest tokens; None for all.
        top_p: only the likeliest tokens that together reach this probability; None for all.
        seed: of the random numbers.

    Raises:
        InterpError: E205 a temperature not above 0, a top_k under 1, a top_p not above 0 and at most 1.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            self.temperature <= 0 and f"temperature {self.temperature} (for the likeliest token leave sample= out)",
            self.top_k is not None and self.top_k < 1 and f"top_k {self.top_k}",
            self.top_p is not None and not 0 < self.top_p <= 1 and f"top_p {self.top_p}",
        ]
        if what := next(filter(None, wrong), None):
            raise InterpError("E205", str(what), fix="temperature > 0, top_k >= 1, 0 < top_p <= 1")

    def generators(self, first: int, n: int) -> list[torch.Generator]:
        """Random numbers of prompts first to first + n, always on the CPU, so that devices agree."""
        return [torch.Generator().manual_seed(hash((self.seed, row)) % 2**63) for row in range(first, first + n)]

    def probabilities(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
        """What is drawn from: softmax of the logits over the temperature, cut by top_k, then by top_p."""
        scores = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < least, float("-inf"))
        if self.top_p is not None:
            ordered, order = scores.softmax(-1).sort(dim=-1, descending=True)
            reached = ordered.cumsum(-1) - ordered >= self.top_p  # the one that reaches it stays
            scores = scores.masked_fill(torch.zeros_like(reached).scatter(-1, order, reached), float("-inf"))
        return scores.softmax(-1)


def choose(
    logits: Float[Tensor, "batch d_vocab"], sample: Sampling | None, generators: Sequence[torch.Generator]
) -> Int[Tensor, " batch"]:
    """The likeliest token of each row, the first of equals, or one that is drawn."""
    if sample is None:
        return logits.argmax(-1)
    rows = sample.probabilities(logits).cpu()
    drawn = [torch.multinomial(row, 1, generator=generator) for row, generator in zip(rows, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)
