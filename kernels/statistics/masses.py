"""Where the mass of a row lies: on a set of keys, near by, at one distance, in each segment; and how much there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import (
    ROUNDING,
    Needs,
    Part,
    Reader,
    RowStatistic,
    blank_padding,
    there,
    unfit,
)
from interp.kernels.statistics.keysets import KeySet, check_keys, members, unfit_keys
from interp.kernels.statistics.reading import diagonal
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class Mass(RowStatistic):
    """Sum of the effective weights of a row, signed: 1 for a softmax, less where a sink logit takes some, any number for
    operators that do not normalise."""

    name: ClassVar[str] = "mass"
    formula: ClassVar[str] = "sum_j W_ij"
    low: ClassVar[float] = float("-inf")

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        return part.mass

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        softmax = needs.request.rule == "softmax"

        def read(answer: Primitives) -> Tensor:
            mass = (answer.lse > float("-inf")).to(answer.lse) if softmax else answer.lse.exp()
            factor = variant.factor(problem, answer.lse)
            return blank_padding(mass if factor is None else mass * factor, problem)

        return read


@dataclass(frozen=True, eq=False)
class SinkMass(RowStatistic):
    """What a set of keys gets of each row.

    Args:
        keys: how many, counted from each document's first real key; or a bool mask [batch, key_pos].

    Raises:
        InterpError: E205, a count under 1; E206, a mask that is not bool.
    """

    name: ClassVar[str] = "sink-mass"
    formula: ClassVar[str] = "sum_{j in S} p_ij"
    high: ClassVar[float] = 1.0

    keys: KeySet = 4

    def __post_init__(self) -> None:
        check_keys(self.keys)

    def check(self, problem: Problem, variant: Variant) -> str | None:
        return unfit_keys(self.keys, problem)

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        inside = members(self.keys, part.view.problem)[:, :, None].to(part.pattern)
        return (part.pattern * inside).sum(-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        index = needs.functional(members(self.keys, problem).to(problem.wide))
        return lambda answer: blank_padding(there(answer.functionals)[..., index], problem)


@dataclass(frozen=True, eq=False)
class WindowMass(RowStatistic):
    """What the nearest keys get: those less than `size` positions away, the query's own among them.

    Raises:
        InterpError: E205, a size under 1.
    """

    name: ClassVar[str] = "window-mass"
    formula: ClassVar[str] = "sum_{|i-j| < size} p_ij"
    high: ClassVar[float] = 1.0

    size: int = 128

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InterpError("E205", f"a window of {self.size} keys", fix="size=1 (itself alone) or more")

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        near = (part.view.query - part.view.key).abs() < self.size
        return (part.pattern * near).sum(-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader | None:
        if variant.looks_ahead or not indices_are_positions(problem):
            return None
        index = needs.band(problem.q.new_ones(min(self.size, problem.n_keys), dtype=problem.wide))
        return lambda answer: blank_padding(there(answer.band)[..., index], problem)


@dataclass(frozen=True, eq=False)
class OffsetMass(RowStatistic):
    """What the key at one distance gets: 1 is the previous token, 0 the query itself, -1 the next one. For prompts that
    repeat after n tokens, n - 1 is where induction heads look."""

    name: ClassVar[str] = "offset-mass"
    formula: ClassVar[str] = "p_{i, i - offset}"
    high: ClassVar[float] = 1.0

    offset: int = 1

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        there_ = part.view.query - part.view.key == self.offset
        return (part.pattern * there_).sum(-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader | None:
        if not indices_are_positions(problem):
            return None
        request = needs.request
        return lambda answer: blank_padding(diagonal(request, answer.lse, self.offset), problem)


@dataclass(frozen=True, eq=False)
class SegmentMass(RowStatistic):
    """What each segment of the keys gets (system, image, text, ...): [batch head query_pos segment].

    Args:
        segments: the segment of each key, 0, 1, ..., or -1 for none: [batch, key_pos].
        count: how many there are; by default as many as are named.

    Raises:
        InterpError: E206, segments that are no whole numbers; E205, a number beyond the count.
    """

    name: ClassVar[str] = "segment-mass"
    formula: ClassVar[str] = "sum_{j in segment} p_ij"
    high: ClassVar[float] = 1.0

    segments: Tensor
    count: int | None = None

    def __post_init__(self) -> None:
        if self.segments.is_floating_point() or self.segments.dtype == torch.bool or self.segments.ndim != 2:
            raise InterpError("E206", f"segments is {self.segments.dtype}", fix="whole numbers [batch, key_pos]")
        if int(self.segments.max()) >= self.n_segments or int(self.segments.min()) < -1:
            raise InterpError("E205", f"segments run beyond -1 ... {self.n_segments - 1}", fix="count=None counts them")

    @property
    def n_segments(self) -> int:
        return int(self.segments.max()) + 1 if self.count is None else self.count

    def check(self, problem: Problem, variant: Variant) -> str | None:
        return unfit("segments", self.segments, (problem.batch, problem.n_keys))

    def width(self, problem: Problem) -> tuple[int, ...]:
        return (self.n_segments,)

    def members(self, problem: Problem) -> Float[Tensor, "batch key_pos segment"]:
        numbers = torch.arange(self.n_segments, device=problem.q.device)
        return (self.segments.to(numbers.device)[..., None] == numbers).to(problem.wide)

    def of(self, part: Part) -> Float[Tensor, "batch head row segment"]:
        members = self.members(part.view.problem)[:, None]
        return torch.matmul(part.pattern, members.expand(part.pattern.shape[0], part.pattern.shape[1], -1, -1))

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        places = [needs.functional(column[:, None]) for column in self.members(problem).unbind(-1)]
        return lambda answer: blank_padding(there(answer.functionals)[..., places], problem)

    def verify(self, value: Tensor, problem: Problem) -> None:
        """Segments that name every key get all of a row, or nothing where the row has no weight."""
        super().verify(value, problem)
        named = (self.segments.to(value.device) >= 0) | ~problem.real_keys
        total = value.nan_to_num(0).sum(-1)
        slack = ROUNDING[problem.q.dtype]
        wrong = (total > 1 + slack) | (bool(named.all()) & (total > slack) & (total < 1 - slack))
        if bool(wrong.any()):
            raise InterpError("E503", f"segments add up to {float(total[wrong][0]):.6g}, not 1")


def indices_are_positions(problem: Problem) -> bool:
    """Whether distances between indices are distances between positions, for every query and the keys it sees."""
    return problem.n_queries <= problem.n_keys or problem.key_mask is None
