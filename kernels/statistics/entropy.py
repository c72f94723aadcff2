"""How spread out attention is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import ROUNDING, Needs, Part, Reader, RowStatistic, blank_padding, there
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class Entropy(RowStatistic):
    """Shannon entropy of a row, in nats: 0 for one key, log n for n keys alike."""

    name: ClassVar[str] = "entropy"
    formula: ClassVar[str] = "-sum_j p_ij log p_ij"

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        tiny = torch.finfo(part.pattern.dtype).tiny  # the gradient of p log p is infinite at 0
        return -(part.pattern * part.pattern.clamp(min=tiny).log()).sum(-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        needs.entropy = True
        return lambda answer: blank_padding(there(answer.entropy), problem)

    def verify(self, value: Tensor, problem: Problem) -> None:
        super().verify(value, problem)
        most, bound = float(value.nan_to_num(0).max()), math.log(problem.n_keys)
        if most > bound + ROUNDING[problem.q.dtype] * max(1.0, bound):
            raise InterpError(
                "E503", f"entropy reaches {most:.6g} with {problem.n_keys} keys, above log n = {bound:.6g}"
            )


@dataclass(frozen=True, eq=False)
class EffectiveKeys(RowStatistic):
    """How many keys a row attends to: the inverse participation ratio, exp of the Renyi-2 entropy."""

    name: ClassVar[str] = "effective-keys"
    formula: ClassVar[str] = "1 / sum_j p_ij^2"

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        return _inverse(part.pattern.square().sum(-1))

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        needs.squares = True
        return lambda answer: blank_padding(_inverse(there(answer.squares)), problem)


def _inverse(squares: Tensor) -> Tensor:
    """0 for rows without any key."""
    return torch.where(squares > 0, 1 / squares, 0)
