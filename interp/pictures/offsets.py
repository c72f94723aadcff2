"""Attention by distance as a statistic: nothing of every pair of tokens is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Kind, Part, Statistic


@dataclass(frozen=True, eq=False)
class OffsetMass(Statistic):
    """Attention to keys at each distance, summed over the real queries: [batch head 2 * furthest + 2].

    Entry `furthest + d` is what queries give to the key d tokens before them, so keys after the query stand below
    `furthest`; the last entry is what goes further than that on either side.

    Args:
        furthest: distance with an entry of its own.

    Raises:
        InterpError: E205, a distance under 1.
    """

    name: ClassVar[str] = "offset-mass"
    kind: ClassVar[Kind] = "head"
    formula: ClassVar[str] = "sum_i p_{i, i - d}"

    furthest: int = 64

    def __post_init__(self) -> None:
        if self.furthest < 1:
            raise InterpError("E205", f"distances up to {self.furthest}", fix="furthest=1 or more")

    def begin(self, problem: Problem) -> Float[Tensor, "batch head offset"]:
        return problem.q.new_zeros(problem.batch, problem.heads, 2 * self.furthest + 2, dtype=problem.wide)

    def add(self, total: Tensor, part: Part) -> None:
        distance = part.view.query - part.view.key
        place = (distance + self.furthest).masked_fill(distance.abs() > self.furthest, 2 * self.furthest + 1)
        real = part.view.problem.real_queries[:, None, part.view.rows, None]
        given = (part.pattern * real).to(total.dtype)
        total[:, part.view.heads].scatter_add_(-1, place.expand_as(given).flatten(2), given.flatten(2))
