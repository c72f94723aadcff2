"""What keys receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import ROUNDING, Needs, Part, Reader, Statistic, there
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class Received(Statistic):
    """Attention that each key receives, summed over queries with any weights: [batch head key_pos].

    Args:
        weights: of the queries, broadcast to [batch, head, query_pos]; None counts every real query once.
    """

    name: ClassVar[str] = "received"
    kind = "column"
    formula: ClassVar[str] = "c_j = sum_i w_i p_ij"
    low: ClassVar[float] = float("-inf")

    weights: Float[Tensor, "#batch #head query_pos"] | None = None

    def query_weights(self, problem: Problem) -> Float[Tensor, "#batch #head query_pos"]:
        real = problem.real_queries[:, None].to(problem.wide)
        return real if self.weights is None else self.weights.to(real) * real

    def begin(self, problem: Problem) -> Tensor:
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
