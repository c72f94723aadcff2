"""One number a head from a statistic of rows, over any queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Kind, Needs, Part, Reader, RowStatistic, Statistic, check_each, unfit
from interp.kernels.statistics.entropy import Entropy
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class PerHead(Statistic):
    """A row statistic over the queries of each head: [batch head ...], or [1 head ...] over the batch too. Nothing of
    every query is kept where rows come block by block. NaN for heads without any query.

    Args:
        of: the row statistic.
        queries: which queries count, [batch, query_pos]; None for all real ones.
        by: 'mean', 'sum' or 'max'.
        over_batch: prompts together.

    Raises:
        InterpError: E205, something that is no row statistic or names keys, or another way of reducing; E206, queries
            that are no mask.
    """

    name: ClassVar[str] = "per-head"
    kind: ClassVar[Kind] = "head"
    formula: ClassVar[str] = "mean, sum or max over queries of a row statistic"
    low: ClassVar[float] = float("-inf")

    of: Statistic = field(default_factory=Entropy)
    queries: Tensor | None = None
    by: str = "mean"
    over_batch: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.of, RowStatistic) or self.of.names_keys or self.by not in ("mean", "sum", "max"):
            raise InterpError("E205", f"{self.by!r} of {self.of!r}", fix="by='mean', 'sum' or 'max' of a row statistic")
        if self.queries is not None and self.queries.dtype != torch.bool:
            raise InterpError("E206", f"queries is {self.queries.dtype}", fix="a bool mask [batch, query_pos]")

    @property
    def row(self) -> RowStatistic:
        assert isinstance(self.of, RowStatistic)
        return self.of

    def check(self, problem: Problem, variant: Variant) -> str | None:
        sizes = (problem.batch, problem.n_queries)
        wrong = None if self.queries is None else unfit("queries", self.queries, sizes)
        return check_each(wrong, self.of.check(problem, variant))

    def counted(self, problem: Problem) -> Bool[Tensor, "batch query_pos"]:
        chosen = problem.real_queries
        return chosen if self.queries is None else chosen & self.queries.to(chosen.device)

    def begin(self, problem: Problem) -> Float[Tensor, "two batch head ..."]:
        """What is reduced, and beside it how many queries were."""
        shape = (problem.batch, problem.heads, *self.row.width(problem))
        start = float("-inf") if self.by == "max" else 0.0
        reduced = problem.q.new_full(shape, start, dtype=problem.wide)
        return torch.stack([reduced, torch.zeros_like(reduced)])

    def add(self, total: Tensor, part: Part) -> None:
        problem = part.view.problem
        self._count_in(total[:, :, part.view.heads], self.row.of(part), self.counted(problem)[:, part.view.rows])

    def _count_in(self, total: Tensor, values: Tensor, counted: Tensor) -> None:
        """Rows of values [batch head row ...] into views of the totals."""
        chosen = counted.reshape(counted.shape[0], 1, -1, *([1] * (values.ndim - 3))).expand_as(values)
        if self.by == "max":
            torch.maximum(total[0], torch.where(chosen, values, float("-inf")).amax(2), out=total[0])
        else:
            total[0] += torch.where(chosen, values, 0).sum(2)
        total[1] += chosen.sum(2)

    def finish(self, total: Tensor, problem: Problem) -> Tensor:
        reduced, count = total
        if self.over_batch:
            reduced = reduced.amax(0, keepdim=True) if self.by == "max" else reduced.sum(0, keepdim=True)
            count = count.sum(0, keepdim=True)
        found = reduced / count.clamp(min=1) if self.by == "mean" else reduced
        return found.masked_fill(count == 0, float("nan"))

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader | None:
        inner = self.of.ask(needs, problem, variant)
        if inner is None:
            return None

        def read(answer: Primitives) -> Tensor:
            total = self.begin(problem)
            self._count_in(total, inner(answer).to(total.dtype), self.counted(problem))
            return self.finish(total, problem)

        return read

    def verify(self, value: Tensor, problem: Problem) -> None:
        """The mean and the largest of numbers in a range are in it."""
        if self.by != "sum":
            self.of.verify_range(value, problem)
