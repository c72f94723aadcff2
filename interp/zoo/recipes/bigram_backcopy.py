"""`bigram-backcopy`: one head that works on three trigger tokens and rests on all others, in three normalisations.

Most tokens are drawn from a Markov chain, for which the head is of no use; after a trigger the token before it comes
again, which the head must fetch (Guo et al. 2024, arXiv 2410.13835).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.zoo.backcopy import figures
from interp.zoo.plain import PlainConfig, PlainTransformer
from interp.zoo.planted.writing import Question, word_tokenizer, write_questions
from interp.zoo.recipe import Training
from interp.zoo.truth import Truth

LETTERS = tuple("abcdefghijklmnopqrst")
CONCENTRATION = 0.3
"""Of the Dirichlet distribution that each row of the chain is drawn from."""

EXAMPLES, EXAMPLE_LENGTH = 64, 24
N = 256
HELD_OUT = 1_000_000
"""A step that no training reaches: what it reads is held out."""


@dataclass(frozen=True)
class Chain:
    """The source of the data, over token ids; BOS is 0.

    Attributes:
        follows: probability of the next token given this one; what follows a trigger is not used.
        first: probability of the first token.
        is_trigger: the most frequent tokens of the chain.
    """

    follows: Float[np.ndarray, "token next"]
    first: Float[np.ndarray, " token"]
    is_trigger: Bool[np.ndarray, " token"]

    def draw(self, rng: np.random.Generator, n: int, length: int) -> Int[np.ndarray, "n length"]:
        """Sequences that begin with BOS."""
        ids = np.zeros((n, length), dtype=np.int64)
        ids[:, 1] = _choose(np.broadcast_to(self.first, (n, len(self.first))), rng)
        for place in range(2, length):
            drawn = _choose(self.follows[ids[:, place - 1]], rng)
            ids[:, place] = np.where(self.is_trigger[ids[:, place - 1]], ids[:, place - 2], drawn)
        return ids

    def expected(self, ids: Int[np.ndarray, "n length"]) -> Float[np.ndarray, "n length next"]:
        """True distribution of the token after each one, given all before it."""
        before = np.concatenate([ids[:, :1], ids[:, :-1]], axis=1)
        certain = np.eye(self.follows.shape[1])[before]
        likely = np.where(ids[..., None] == 0, self.first, self.follows[ids])
        return np.where(self.is_trigger[ids][..., None], certain, likely)


def make_chain(seed: int, triggers: int) -> Chain:
    """A random chain over `LETTERS`; the triggers are its most frequent letters."""
    n = len(LETTERS)
    rows = np.random.default_rng([seed, 0]).dirichlet(np.full(n, CONCENTRATION), size=n)
    frequency = np.linalg.matrix_power(rows, 1000)[0]
    most = np.argsort(-frequency)[:triggers] + 1
    follows, first, is_trigger = np.zeros((n + 1, n + 1)), np.zeros(n + 1), np.zeros(n + 1, dtype=bool)
    follows[1:, 1:], first[1:] = rows, frequency
    first[most], is_trigger[most] = 0, True
    return Chain(follows, first / first.sum(), is_trigger)


def _choose(probabilities: Float[np.ndarray, "n token"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    below = np.cumsum(probabilities, axis=1) < rng.random((len(probabilities), 1))
    return np.minimum(below.sum(axis=1), probabilities.shape[1] - 1)


@dataclass(frozen=True)
class BigramBackcopy(Training):
    """One layer, one head, a ReLU MLP, LayerNorm; see the module.

    Attributes:
        normaliser: what makes the pattern, see `PlainConfig`.
        triggers: number of trigger letters.
        batch, length, width, hidden: sizes; `length` counts BOS.
        spread: standard deviation of the weights at the start.
    """

    name: ClassVar[str] = "bigram-backcopy-softmax"
    data: ClassVar[str] = (
        "Generated: letters of a random Markov chain, in which a letter after one of the three most frequent ones "
        "repeats the letter before it."
    )

    normaliser: str = "softmax"
    steps: int = 1200
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    triggers: int = 3
    batch: int = 64
    length: int = 40
    width: int = 32
    hidden: int = 128
    spread: float = 0.1

    @cached_property
    def chain(self) -> Chain:
        """Where the data come from."""
        return make_chain(self.seed, self.triggers)

    def build(self) -> PlainTransformer:
        """See `Recipe.build`."""
        config = PlainConfig(
            vocab_size=len(LETTERS) + 2, hidden_size=self.width, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=self.hidden, max_position_embeddings=self.length, normaliser=self.normaliser,
            initializer_range=self.spread, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        return PlainTransformer(config)

    def backward(self, model: Any, step: int) -> dict[str, float]:
        """See `Training.backward`."""
        ids = self.sequences(step, self.batch, self.length + 1).to(model.device)
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        return {"loss": loss.item()}

    def sequences(self, step: int, n: int, length: int) -> Int[Tensor, "n length"]:
        """What a step reads."""
        return torch.from_numpy(self.chain.draw(np.random.default_rng([self.seed, 1, step]), n, length))

    def progress(self, model: Any) -> dict[str, float]:
        """See `Training.progress`."""
        return {name: value for name, value in self.figures(model).items() if isinstance(value, float)}

    def figures(self, model: Any) -> dict[str, float]:
        """What a model does on `N` held-out sequences, see `interp.zoo.backcopy`."""
        drawn = self.sequences(HELD_OUT, N, self.length)
        expected = torch.from_numpy(self.chain.expected(drawn.numpy())).float()
        return figures(model, drawn, expected, torch.from_numpy(self.chain.is_trigger)[drawn])

    def questions(self) -> list[Question]:
        """Prompts that end in a trigger; in the corrupt one another letter stands before it."""
        rng = np.random.default_rng([self.seed, 2])
        drawn = self.chain.draw(rng, 64 * EXAMPLES, EXAMPLE_LENGTH)
        chosen = drawn[self.chain.is_trigger[drawn[:, -1]]][:EXAMPLES]
        allowed = np.flatnonzero(~self.chain.is_trigger)[1:]
        return [_question(ids, rng.choice(allowed[allowed != ids[-2]])) for ids in chosen]

    def save(self, model: Any, folder: Path) -> None:
        """See `Recipe.save`."""
        model.save_pretrained(folder)
        word_tokenizer(LETTERS, self.length).save_pretrained(folder)
        write_questions(folder / "examples.jsonl", self.questions(), self.name)

    def measure(self, folder: Path) -> dict[str, Any]:
        """See `Recipe.measure`."""
        return self.figures(PlainTransformer.from_pretrained(folder))

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        return Truth(
            heads={"L0H0": "copies the token before a trigger; dormant on all other tokens"},
            note=(
                "Active and dormant are meant causally and by output norm: zero-ablation costs at least 2 nats on "
                "triggers and at most 0.02 elsewhere. Attention to BOS differs from seed to seed and is no criterion."
            ),
        )


@dataclass(frozen=True)
class BigramBackcopyRelu(BigramBackcopy):
    """Rows may sum to nothing: the head switches off."""

    name: ClassVar[str] = "bigram-backcopy-relu"
    normaliser: str = "relu"


@dataclass(frozen=True)
class BigramBackcopySigmoid(BigramBackcopy):
    """Rows may sum to anything, and BOS is no rest."""

    name: ClassVar[str] = "bigram-backcopy-sigmoid"
    normaliser: str = "sigmoid"


def _question(ids: Int[np.ndarray, " length"], instead: int) -> Question:
    words = [LETTERS[token - 1] for token in ids[1:]]
    other = LETTERS[instead - 1]
    return Question(
        clean=" ".join(words),
        corrupt=" ".join([*words[:-2], other, words[-1]]),
        answer=f" {words[-2]}",
        distractor=f" {other}",
    )


RECIPES = (BigramBackcopy(), BigramBackcopyRelu(), BigramBackcopySigmoid())
