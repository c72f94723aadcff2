"""`ordered-balance`: are there more a's than b's so far? Two counts, made apart, that one MLP compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.zoo.ordered.base import Ordered
from interp.zoo.ordered.interchange import UNASKED, Program, Settle
from interp.zoo.truth import Truth

LETTERS = ("a", "b", "c", "d")
VERDICTS = ("fewer", "equal", "more")
N = 8


class Balance(Program):
    """BOS and eight letters; at each letter the answer is whether there were fewer, as many or more a's than b's.

    Variables: `count_a` and `count_b`, up to and with each letter; `verdict`, the answer.
    """

    words = (*LETTERS, *VERDICTS)
    length = 1 + N

    def draw(self, rng: np.random.Generator, n: int) -> Int[Tensor, "n pos"]:
        """See `Program.draw`."""
        letters = rng.choice([1, 2, 3, 4], size=(n, N), p=[0.3, 0.3, 0.2, 0.2])
        return torch.from_numpy(np.concatenate([np.zeros((n, 1), dtype=letters.dtype), letters], axis=1))

    def compute(self, ids: Int[Tensor, "n pos"], settle: Settle) -> Int[Tensor, "n pos"]:
        """See `Program.compute`."""
        letters = ids[:, 1:]
        count_a = settle("count_a", (letters == 1).cumsum(1))
        count_b = settle("count_b", (letters == 2).cumsum(1))
        verdict = settle("verdict", (count_a - count_b).sign() + 2 + len(LETTERS))
        return torch.cat([torch.full_like(ids[:, :1], UNASKED), verdict], dim=1)


@dataclass(frozen=True)
class OrderedBalance(Ordered):
    """L0H1 counts a's, L1H2 counts b's, M1 compares."""

    name: ClassVar[str] = "ordered-balance"
    data: ClassVar[str] = "Generated: eight random letters, and at each whether a or b was more frequent so far."
    program: ClassVar[Program] = Balance()
    alignment: ClassVar[dict[str, tuple[str, ...]]] = {"count_a": ("L0H1",), "count_b": ("L1H2",), "verdict": ("M1",)}

    steps: int = 700

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        program = ["embed->L0H1.v", "embed->L1H2.v", "L0H1->M1", "L1H2->M1", "M1->logits"]
        return Truth(
            heads={"L0H1": "counts a", "L1H2": "counts b"},
            edges={"program": program, "resample": [*program, "embed->L1H2.k"]},
            note="M1 compares the counts. Training chose to mark the b's by key as well as by value.",
        )


RECIPES = (OrderedBalance(),)
