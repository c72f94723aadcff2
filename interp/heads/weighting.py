"""Attention to targets weighted by what the keys move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Needs, Part, Reader, RowStatistic, blank_padding, there
from interp.kernels.statistics.norms import OutputNormMass
from interp.kernels.statistics.reading import pattern_at
from interp.kernels.statistics.targets import Targets, columns
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class TargetShare(RowStatistic):
    """Of all that a query moves, the share that its targets make up; beside it, that share under even attention.

    `sum_t p_it ||v_t W_O|| / sum_j p_ij ||v_j W_O||`, and the same with p_ij alike for all keys up to the query.
    Kobayashi et al. 2020, arXiv 2004.10102, eq. 4.

    Args:
        targets: indices of keys for each query, -1 for none; or a chain of them.
        w_o: output projection of all heads of the layer.
    """

    name: ClassVar[str] = "target-share"
    formula: ClassVar[str] = "sum_{t in targets(i)} p_it ||v_t W_O|| / sum_j p_ij ||v_j W_O||"
    high: ClassVar[float] = 1.0

    targets: Targets
    w_o: Float[Tensor, "head d_value d_model"]

    def width(self, problem: Problem) -> tuple[int, ...]:
        return (2,)

    def lengths(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        return problem.once(("lengths", self), OutputNormMass(w_o=self.w_o).lengths)

    def of(self, part: Part) -> Float[Tensor, "batch head row two"]:
        problem = part.view.problem
        moved = part.pattern * self.lengths(problem)[:, part.view.heads, None]
        inside = moved.new_zeros(moved.shape[:3])
        for one in columns(self.targets):
            keys = one[:, :, part.view.rows].to(moved.device).expand(moved.shape[:3])[..., None]
            inside += (moved.gather(-1, keys.clamp(min=0)) * (keys >= 0))[..., 0]
        return torch.stack([_share(inside, moved.sum(-1)), self.even(problem)[part.where]], -1)

    def even(self, problem: Problem) -> Float[Tensor, "batch head query_pos"]:
        """The share under even attention."""
        lengths = self.lengths(problem) * problem.real_keys[:, None]
        inside = sum((_at(lengths, one) for one in columns(self.targets)), torch.zeros_like(lengths))
        return _share(inside, lengths.cumsum(-1))

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        lengths, request = self.lengths(problem), needs.request
        whole = needs.functional(lengths)

        def read(answer: Primitives) -> Tensor:
            inside = torch.zeros_like(answer.lse)
            for one in columns(self.targets):
                inside += pattern_at(request, answer.lse, one) * _at(lengths, one)
            shares = [_share(inside, there(answer.functionals)[..., whole]), self.even(problem)]
            return blank_padding(torch.stack(shares, -1), problem)

        return read


def _at(
    lengths: Float[Tensor, "batch head key_pos"], keys: Int[Tensor, "batch 1 pos"]
) -> Float[Tensor, "batch head pos"]:
    """The length at each query's key; 0 where it has none."""
    keys = keys.to(lengths.device).expand(-1, lengths.shape[1], -1)
    return lengths.gather(-1, keys.clamp(min=0)) * (keys >= 0)


def _share(inside: Tensor, whole: Tensor) -> Tensor:
    """0 in rows that move nothing."""
    return torch.where(whole > 0, inside / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0)
