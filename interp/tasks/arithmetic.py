"""Arithmetic: "Q: How much is 23 plus 45? A:" -> " 68"."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from interp.hooks.examples import Example
from interp.tasks.base import check_choice
from interp.tasks.split import belongs, draw_until
from interp.tasks.text import TextTask, Words, fill

PATTERN = "Q: How much is [A] [OPERATION] [B]? A:"
OPERATIONS = ("plus", "minus", "both")
NUMBERS = tuple(map(str, range(10, 100)))


@dataclass(frozen=True)
class Arithmetic(TextTask):
    """Sum or difference of two numbers of two digits, where it has two digits itself.

    The corrupt prompt has two other operands, and the distractor is its answer. Facts of the split are unordered pairs
    of operands with their operation.

    Attributes:
        operation: `plus`, `minus` (the larger number first) or `both`, half of the questions each.
    """

    name: ClassVar[str] = "arithmetic"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Arithmetic: add or subtract two numbers of two digits."
    lists: ClassVar[Words] = {"numbers": NUMBERS}

    operation: str = "plus"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "operation", self.operation, OPERATIONS)

    def draw(self, rng: random.Random, index: int, words: Words) -> Example:
        """See `TextTask.draw`."""
        operation = ("plus", "minus")[index % 2] if self.operation == "both" else self.operation
        known = frozenset(map(int, words["numbers"]))
        a, b, answer = draw_until(lambda: rng.choice(sums(operation, self.split)), lambda fact: known.issuperset(fact))
        c, d, other = draw_until(
            lambda: rng.choice(sums(operation, self.split)),
            lambda fact: known.issuperset(fact) and fact[2] != answer,
        )
        roles = {"A": "a", "OPERATION": "operation", "B": "b"}
        clean, spans = fill(PATTERN, {"A": str(a), "OPERATION": operation, "B": str(b)}, roles)
        corrupt, corrupt_spans = fill(PATTERN, {"A": str(c), "OPERATION": operation, "B": str(d)}, roles)
        return Example(f"arithmetic-{index:04d}", clean, f" {answer}", f" {other}", corrupt, spans, corrupt_spans)


@cache
def sums(operation: str, split: str) -> tuple[tuple[int, int, int], ...]:
    """(a, b, result) of a split, all of two digits."""
    sign = 1 if operation == "plus" else -1
    return tuple(
        (a, b, a + sign * b)
        for a in range(10, 100)
        for b in range(10, 100)
        if 10 <= a + sign * b < 100 and belongs(split, operation, str(min(a, b)), str(max(a, b)))
    )
