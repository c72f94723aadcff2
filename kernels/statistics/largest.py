"""The key that gets most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Needs, Part, Reader, RowStatistic, blank_padding, there
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class Largest(RowStatistic):
    """What the key that gets most of a row gets."""

    name: ClassVar[str] = "largest"
    formula: ClassVar[str] = "max_j p_ij"
    high: ClassVar[float] = 1.0

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        return part.pattern.amax(-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        needs.largest = True
        return lambda answer: blank_padding(there(answer.largest), problem)


@dataclass(frozen=True, eq=False)
class ArgMax(RowStatistic):
    """Which key that is: its index, int64, the lowest of equals; -1 at padding queries and in rows without weight."""

    name: ClassVar[str] = "arg-max"
    formula: ClassVar[str] = "argmax_j p_ij"
    low: ClassVar[float] = -1.0
    names_keys: ClassVar[bool] = True

    def begin(self, problem: Problem) -> Int[Tensor, "batch head query_pos"]:
        return torch.full(problem.q.shape[:3], -1, dtype=torch.int64, device=problem.q.device)

    def of(self, part: Part) -> Int[Tensor, "batch head row"]:
        most = part.pattern.max(-1)
        return most.indices.masked_fill(most.values <= 0, -1)

    def finish(self, total: Tensor, problem: Problem) -> Tensor:
        return total.masked_fill(~problem.real_queries[:, None], -1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        needs.largest = True
        return lambda answer: self.finish(there(answer.argmax).long(), problem)
