"""What every statistic is: an exact definition on rows of a pattern, and, where it has one, a way to get it without them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives, Request
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Variant, Weights, pattern_of

Reader = Callable[[Primitives], Tensor]
Kind = Literal["row", "column", "targeted", "map", "head"]

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far a self-check may be off for inputs of a dtype, relative to the range."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of some heads' weights, on the way through a problem."""

    view: View
    weights: Weights

    @cached_property
    def pattern(self) -> Float[Tensor, "batch head row key_pos"]:
        """`|W| / sum |W|`, whatever the operator: see `pattern_of`."""
        return pattern_of(self.weights.values)

    @cached_property
    def mass(self) -> Float[Tensor, "batch head row"]:
        """Sum of the weights of each row, signed."""
        return self.weights.values.sum(-1)

    @property
    def where(self) -> tuple[slice, slice, slice]:
        """Batch, heads and rows, to index what has been allocated for the whole problem."""
        return slice(None), self.view.heads, self.view.rows


@dataclass
class Needs:
    """What statistics ask of a fused kernel; each call gives back where the answer will stand.

    `request` is the problem as the kernel sees it, for readers that compute single entries of the pattern from its lse.
    """

    request: Request
    entropy: bool = False
    largest: bool = False
    squares: bool = False
    functionals: list[Float[Tensor, "#batch #head key_pos"]] = field(default_factory=list)
    bands: list[Float[Tensor, " distance"]] = field(default_factory=list)
    columns: list[Float[Tensor, "#batch #head query_pos"]] = field(default_factory=list)

    def functional(self, values: Float[Tensor, "#batch #head key_pos"]) -> int:
        self.functionals.append(values)
        return len(self.functionals) - 1

    def band(self, weights: Float[Tensor, " distance"]) -> int:
        self.bands.append(weights)
        return len(self.bands) - 1

    def column(self, weights: Float[Tensor, "#batch #head query_pos"]) -> int:
        self.columns.append(weights)
        return len(self.columns) - 1


@dataclass(frozen=True, eq=False)
class Statistic(ABC):
    """Something to be known of the pattern of every head.

    A subclass says what it is on rows of a pattern (`add`) and, where a fused kernel can give it, what it needs from
    there (`ask`). Both are held against each other in the tests. Rows of padding queries hold NaN in row statistics and
    count nowhere else.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    formula: ClassVar[str]
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = float("inf")

    def check(self, problem: Problem, variant: Variant) -> str | None:
        """Why this can't be known of this operator or problem; None where it can."""
        return None

    @abstractmethod
    def begin(self, problem: Problem) -> Tensor:
        """Where the answer is gathered."""

    @abstractmethod
    def add(self, total: Tensor, part: Part) -> None:
        """Counts some rows in."""

    def finish(self, total: Tensor, problem: Problem) -> Tensor:
        """The answer, after all rows."""
        return total

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader | None:
        """Notes down what is needed from a fused kernel and gives back how to read it; None where none can give it."""
        return None

    def verify(self, value: Tensor, problem: Problem) -> None:
        """The self-check that always runs. Raises E503."""
        self.verify_range(value, problem)

    def verify_range(self, value: Tensor, problem: Problem) -> None:
        """Values lie between `low` and `high`."""
        slack = ROUNDING[problem.q.dtype] * max(1.0, self.high if self.high < float("inf") else 1.0)
        known = value[~value.isnan()]
        if known.numel() and not (self.low - slack <= float(known.min()) and float(known.max()) <= self.high + slack):
            raise InterpError(
                "E503",
                f"{self.name} runs from {float(known.min()):.6g} to {float(known.max()):.6g}, "
                f"outside [{self.low:g}, {self.high:g}]",
                fix="backend='eager' to see whether the backend is wrong; please report it",
            )


@dataclass(frozen=True, eq=False)
class RowStatistic(Statistic):
    """One number, or a few, for every query.

    `names_keys` says that the numbers are indices of keys: int64, and -1 where others hold NaN.
    """

    kind: ClassVar[Kind] = "row"
    names_keys: ClassVar[bool] = False

    @abstractmethod
    def of(self, part: Part) -> Float[Tensor, "batch head row ..."]:
        """The definition, on rows of a pattern."""

    def width(self, problem: Problem) -> tuple[int, ...]:
        """Shape of what a query has beyond the query axis; () for one number."""
        return ()

    def begin(self, problem: Problem) -> Tensor:
        shape = (problem.batch, problem.heads, problem.n_queries, *self.width(problem))
        return problem.q.new_full(shape, float("nan"), dtype=problem.wide)

    def add(self, total: Tensor, part: Part) -> None:
        total[part.where] = self.of(part).to(total.dtype)

    def finish(self, total: Tensor, problem: Problem) -> Tensor:
        return blank_padding(total, problem)

    def verify(self, value: Tensor, problem: Problem) -> None:
        """Values lie in the range, and none is missing but those of padding queries."""
        missing = int(value.isnan().sum()) - int((~problem.real_queries).sum()) * value[:, :, :1].numel() // len(value)
        if not self.names_keys and missing:
            raise InterpError("E503", f"{self.name} is not a number in {missing} places beside padding")
        self.verify_range(value, problem)


def blank_padding(value: Tensor, problem: Problem) -> Tensor:
    """NaN in the rows of padding queries of [batch head query_pos ...]."""
    if problem.key_mask is None:
        return value
    padding = ~problem.real_queries[:, None].reshape(problem.batch, 1, -1, *([1] * (value.ndim - 3)))
    return value.masked_fill(padding, float("nan"))


def there(value: Tensor | None) -> Tensor:
    """An answer that was asked for."""
    assert value is not None, "the kernel did not answer what it was asked"
    return value


def of_heads(values: Tensor, problem: Problem) -> Tensor:
    """Numbers given for every head of the model, [#batch #head ...], for the heads of this problem."""
    if values.shape[1] == 1:
        return values.to(problem.q.device)
    return values.to(problem.q.device)[:, list(problem.head_index)]


def unfit(name: str, value: Tensor, sizes: tuple[int, ...]) -> str | None:
    """Why a parameter doesn't broadcast to these sizes; None where it does."""
    fits = value.ndim == len(sizes) and all(size in (1, full) for size, full in zip(value.shape, sizes, strict=True))
    return None if fits else f"{name} is {list(value.shape)}, and the problem {list(sizes)}"


def check_each(*reasons: str | None) -> str | None:
    """The first reason, if any."""
    return next((reason for reason in reasons if reason), None)
