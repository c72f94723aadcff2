"""Induction by two written heads: one copies the word before, the other looks for what the first one left.

L0H0 copies the word before into the part BEFORE of the stream. L1H2 looks for the place whose BEFORE is the current word
and copies the word there into ANSWER, which the output layer reads; where there is no such place it rests on BOS. The
other six heads and the MLPs hold noise. Norms are undone: the stream holds a known number of ones. The same program
stands in other architectures in `planted_induction_twins`.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.zoo.planted.base import Planted
from interp.zoo.planted.writing import LOUD, SHARPNESS, Question, cleared, numbered, parts, randomise, undo_norm
from interp.zoo.truth import Truth

HEADS = 4
PREVIOUS, INDUCTION = "L0H0", "L1H2"
OFFSET_SHARPNESS = 200.0
"""Score of the previous position; no other comes to more than 0.85 of it, which leaves it under exp(-30)."""

N_ANGLES = 8
DISTINCT, REPEATED = 20, 16
CONTENT = ("embed->L0H0.v", "L0H0->L1H2.k", "embed->L1H2.q", "embed->L1H2.v", "L1H2->logits")
REST = "embed->L1H2.k"


@dataclass(frozen=True)
class Induction(Planted):
    """The program; a subclass says in which architecture.

    Attributes:
        n_words: size of the vocabulary without BOS and the unknown word.
        positions: longest prompt.
    """

    floor: ClassVar[float] = (
        0.25  # under zero ablation, writers also act through the size that the last norm divides by
    )
    offset: ClassVar[tuple[str, str]]
    """Edges by which L0H0 finds the previous position."""

    n_words: int = 32
    positions: int = 64

    @property
    def words(self) -> tuple[str, ...]:
        """w1 to wn."""
        return numbered(self.n_words)

    @property
    def parts(self) -> dict[str, slice]:
        """The stream: each word, and BOS, has a dimension in TOKEN, BEFORE and ANSWER; ONE is 1 everywhere."""
        width = self.n_words + 1
        return parts(TOKEN=width, BEFORE=width, ANSWER=width, ONE=1)

    @abstractmethod
    def empty(self) -> Any:
        """A model of the right shape."""

    @property
    @abstractmethod
    def content(self) -> Sequence[int]:
        """Dimensions of a head that turn by no position, one for each word and BOS."""

    @abstractmethod
    def write_offset(self, model: Any, q: Tensor, k: Tensor) -> None:
        """Let q and k of a head be unit vectors that match best at the previous position."""

    @abstractmethod
    def norms(self, model: Any) -> Iterable[tuple[Any, float, float]]:
        """Norms that are to change nothing, with sum and sum of squares of the vectors that they see."""

    def sharpen(self, model: Any, layer: int, head: int, q: Tensor, score: float) -> None:
        """Let a match of unit vectors have this score."""
        q.mul_(score * q.shape[1] ** 0.5)

    @torch.no_grad()
    def build(self) -> Any:
        """See `Recipe.build`."""
        model = self.empty()
        randomise(model, self.noise, self.seed)
        words, part = range(self.n_words + 1), self.parts
        embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding[words, words] = 1
        embedding[:, part["ONE"]] = 1
        output[words[1:], range(part["ANSWER"].start + 1, part["ANSWER"].stop)] = LOUD
        for norm, total, squares in self.norms(model):
            undo_norm(norm, total, squares)
        self.write_previous(model)
        self.write_induction(model)
        return model.eval()

    def write_previous(self, model: Any) -> None:
        """L0H0."""
        head, part, unit = cleared(model, 0, 0), self.parts, torch.eye(self.n_words + 1)
        self.write_offset(model, head["q"], head["k"])
        self.sharpen(model, 0, 0, head["q"], OFFSET_SHARPNESS)
        head["v"][part["TOKEN"], self.content] = unit
        head["o"][self.content, part["BEFORE"]] = unit

    def write_induction(self, model: Any) -> None:
        """L1H2. In its first content dimension, that of BOS, all places ask for BOS with half the score of a match."""
        head, part, words = cleared(model, 1, 2), self.parts, torch.eye(self.n_words + 1)
        words[0, 0] = 0
        head["q"][part["TOKEN"], self.content] = words
        head["q"][part["ONE"], self.content[0]] = 0.5
        head["k"][part["BEFORE"], self.content] = words
        head["k"][part["TOKEN"].start, self.content[0]] = 1
        self.sharpen(model, 1, 2, head["q"], SHARPNESS)
        head["v"][part["TOKEN"], self.content] = words
        head["o"][self.content, part["ANSWER"]] = words

    def question(self, rng: random.Random) -> Question:
        """Words in random order, then most of them again; in the corrupt prompt the same words in another order."""
        drawn = rng.sample(self.words, DISTINCT)
        other = rng.sample(drawn, DISTINCT)
        if other[REPEATED] == drawn[REPEATED] or other[REPEATED - 1] == drawn[REPEATED - 1]:
            return self.question(rng)
        clean, corrupt = (" ".join([*order, *order[:REPEATED]]) for order in (drawn, other))
        return Question(clean, corrupt, f" {drawn[REPEATED]}", f" {other[REPEATED]}")

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        """See `Planted.targets`; for the induction head, at words that came before."""
        after = {q: words.index(words[q]) + 1 for q in range(len(words)) if words[q] in words[:q]}
        return {PREVIOUS: {q: q - 1 for q in range(1, len(words))}, INDUCTION: after}

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        length = 1 + DISTINCT + REPEATED
        heads = {PREVIOUS: "previous token", INDUCTION: "induction"}
        edges = {
            "program": [*self.offset, *CONTENT, REST],
            "resample": list(CONTENT),
            "zero": [*self.offset, *CONTENT],
        }
        scores = {"previous_token": {PREVIOUS: (length - 1) / length}, "induction": {INDUCTION: 1.0}}
        note = (
            f"previous_token: attention to the token before, mean over all {length} positions, of which the first has "
            "none; induction: attention to the token after the earlier occurrence, mean over positions that have one. "
            "Idle rows of the induction head rest on BOS, so the stripe score of S repeated words is (S + 1)/(S + 2). "
            f"Positions are the same in both prompts of a pair, so resampling leaves {' and '.join(self.offset)} out; "
            f"{REST} only carries the rest on BOS and decides no answer."
        )
        return Truth(heads, edges, scores, note)


@dataclass(frozen=True)
class PlantedInduction(Induction):
    """In GPT-2: multi-head attention, LayerNorm, learned positions.

    Positions are written as angles, each by cosine, sine and their negatives, so that every position has mean 0 and
    norm 1 as LayerNorm sees it.
    """

    name: ClassVar[str] = "planted-induction"
    data: ClassVar[str] = "Written by hand, from no data: a previous-token and an induction head among noise, in GPT-2."
    offset: ClassVar[tuple[str, str]] = ("pos_embed->L0H0.q", "pos_embed->L0H0.k")

    @property
    def d_head(self) -> int:
        """Just wide enough for the stream, in quarters."""
        return -(-(self.parts["ONE"].stop + 4 * N_ANGLES) // HEADS)

    @property
    def content(self) -> Sequence[int]:
        return range(self.n_words + 1)

    def empty(self) -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=self.n_words + 2, n_positions=self.positions, n_embd=HEADS * self.d_head, n_layer=2,
            n_head=HEADS, n_inner=8, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
        )  # fmt: skip
        return GPT2LMHeadModel(config)

    def write_offset(self, model: Any, q: Tensor, k: Tensor) -> None:
        angles = frequencies(N_ANGLES)
        places = torch.arange(self.positions)[:, None] * angles
        code = torch.cat([places.cos(), places.sin()], -1) / (2 * N_ANGLES) ** 0.5
        begin, half = self.parts["ONE"].stop, 2 * N_ANGLES
        model.transformer.wpe.weight[:, begin : begin + 2 * half] = torch.cat([code, -code], -1)
        turn = torch.cat([torch.cat([angles.cos().diag(), -angles.sin().diag()], 1),
                          torch.cat([angles.sin().diag(), angles.cos().diag()], 1)])  # fmt: skip
        q[begin : begin + half, :half] = 2**0.5 * turn
        k[begin : begin + half, :half] = 2**0.5 * torch.eye(half)

    def norms(self, model: Any) -> Iterable[tuple[Any, float, float]]:
        first, second = model.transformer.h
        norms = (first.ln_1, first.ln_2, second.ln_1, second.ln_2, model.transformer.ln_f)
        return ((norm, ones, ones + 1) for norm, ones in zip(norms, (2.0, 3.0, 3.0, 4.0, 4.0), strict=True))


def frequencies(n: int) -> Float[Tensor, " angle"]:
    """Angles a position, by the golden ratio: no distance up to 64 comes near to full turns of all of them."""
    shares = (torch.arange(1, n + 1, dtype=torch.float64) * (5**0.5 - 1) / 2) % 1
    return (math.pi * shares).float()


RECIPES = (PlantedInduction(),)
