"""What keys receive: from all queries, from the last ones, from those far ahead; and which receive most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import ROUNDING, Kind, Needs, Part, Reader, Statistic, of_heads, there, unfit
from interp.kernels.variants.base import Variant

Queries = Float[Tensor, "#batch #head query_pos"]


@dataclass(frozen=True, eq=False)
class ColumnStatistic(Statistic):
    """A sum over queries for every key: [batch head key_pos]."""

    kind: ClassVar[Kind] = "column"
    low: ClassVar[float] = float("-inf")

    def query_weights(self, problem: Problem) -> Queries:
        """How much each query counts; 0 for padding."""
        return problem.real_queries[:, None].to(problem.wide)

    def begin(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        return problem.q.new_zeros(problem.batch, problem.heads, problem.n_keys, dtype=problem.wide)

    def add(self, total: Tensor, part: Part) -> None:
        weights = self.query_weights(part.view.problem)
        weights = weights.expand(-1, part.view.problem.heads, -1)[:, part.view.heads, part.view.rows]
        total[:, part.view.heads] += torch.einsum("bhqk,bhq->bhk", part.pattern, weights.expand_as(part.mass))

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        index = needs.column(self.query_weights(problem))
        return lambda answer: there(answer.columns)[:, :, index]

    def verify(self, value: Tensor, problem: Problem) -> None:
        """Columns add up to the weights of the queries that see anything; with weights of both signs no more is known."""
        weights = self.query_weights(problem).expand(problem.batch, problem.heads, -1)
        if bool((weights < 0).any()):
            return
        received, spent = value.sum(-1), weights.sum(-1)
        slack = ROUNDING[problem.q.dtype] * spent.clamp(min=1)
        if bool((received > spent + slack).any()) or bool((value < -slack[..., None]).any()):
            raise InterpError("E503", f"columns of {self.name} add up to {float(received.max()):.6g}, rows to less")


@dataclass(frozen=True, eq=False)
class Received(ColumnStatistic):
    """Attention that each key receives, summed over queries with any weights: [batch head key_pos].

    Args:
        weights: of the queries, broadcast to [batch, head, query_pos]; None counts every real query once.
    """

    name: ClassVar[str] = "received"
    formula: ClassVar[str] = "c_j = sum_i w_i p_ij"

    weights: Queries | None = None

    def check(self, problem: Problem, variant: Variant) -> str | None:
        sizes = (problem.batch, problem.n_heads, problem.n_queries)
        return None if self.weights is None else unfit("weights", self.weights, sizes)

    def query_weights(self, problem: Problem) -> Queries:
        real = problem.real_queries[:, None].to(problem.wide)
        return real if self.weights is None else of_heads(self.weights, problem).to(real) * real


@dataclass(frozen=True, eq=False)
class LastQueries(ColumnStatistic):
    """Attention that each key receives from the last queries of its row: what SnapKV and MInference keep keys by.

    Li et al. 2024, arXiv 2404.14469, section 4, before pooling.

    Raises:
        InterpError: E205, fewer than 1 query.
    """

    name: ClassVar[str] = "last-queries"
    formula: ClassVar[str] = "sum_{i among the last n} p_ij"

    n: int = 64

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InterpError("E205", f"the last {self.n} queries", fix="n=1 or more")

    def query_weights(self, problem: Problem) -> Queries:
        real = problem.real_queries.int()
        from_end = real.flip(-1).cumsum(-1).flip(-1)
        return ((from_end <= self.n) & problem.real_queries)[:, None].to(problem.wide)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        """A few rows cost less than a pass over all columns."""
        counted = self.query_weights(problem).amax((0, 1)) > 0
        first = int(counted.int().argmax()) if bool(counted.any()) else 0
        if problem.n_queries - first > 4 * self.n:
            return super().ask(needs, problem, variant)

        def read(_: object) -> Tensor:
            total = self.begin(problem)
            for head in range(problem.heads):
                view = problem.view(slice(head, head + 1), slice(first, problem.n_queries))
                self.add(total, Part(view, variant.weights(view)))
            return total

        return read


@dataclass(frozen=True, eq=False)
class HeavyHitters(ColumnStatistic):
    """The keys that receive most over all queries, most first: their indices [batch head k], int64, -1 where there are
    no more that receive anything.

    The accumulated attention of Zhang et al. 2023 (H2O), arXiv 2306.14048. `Received` says how much they receive.

    Raises:
        InterpError: E205, fewer than 1 key.
    """

    name: ClassVar[str] = "heavy-hitters"
    formula: ClassVar[str] = "top-k_j sum_i p_ij"

    k: int = 16

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InterpError("E205", f"the first {self.k} keys", fix="k=1 or more")

    def finish(self, total: Tensor, problem: Problem) -> Int[Tensor, "batch head k"]:
        most = total.topk(min(self.k, problem.n_keys), -1)
        found = most.indices.masked_fill(most.values <= 0, -1)
        return torch.nn.functional.pad(found, (0, self.k - found.shape[-1]), value=-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        received = super().ask(needs, problem, variant)
        return lambda answer: self.finish(received(answer), problem)

    def verify(self, value: Tensor, problem: Problem) -> None:
        if int(value.max()) >= problem.n_keys or int(value.min()) < -1:
            raise InterpError("E503", f"{self.name} names key {int(value.max())} of {problem.n_keys}")
