"""Attention to a set of keys weighted by what the keys move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Needs, Part, Reader, RowStatistic, blank_padding, there
from interp.kernels.statistics.norms import OutputNormMass
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class KeyShare(RowStatistic):
    """Of all that a query moves, the share of a set of keys; beside it, that share under even attention.

    `sum_{j in S} p_ij ||v_j W_O|| / sum_j p_ij ||v_j W_O||`, Kobayashi et al. 2020, arXiv 2004.10102, eq. 4.

    Args:
        keys: the set.
        w_o: output projection of all heads of the layer.
    """

    name: ClassVar[str] = "key-share"
    formula: ClassVar[str] = "sum_{j in S} p_ij ||v_j W_O|| / sum_j p_ij ||v_j W_O||"
    high: ClassVar[float] = 1.0

    keys: Bool[Tensor, "batch key_pos"]
    w_o: Float[Tensor, "head d_value d_model"]

    def width(self, problem: Problem) -> tuple[int, ...]:
        return (2,)

    def lengths(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        return problem.once(("lengths", self), OutputNormMass(w_o=self.w_o).lengths)

    def inside(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        """Lengths of the set's keys, 0 at others."""
        lengths = self.lengths(problem)
        return lengths * self.keys[:, None].to(lengths)

    def of(self, part: Part) -> Float[Tensor, "batch head row two"]:
        problem, heads = part.view.problem, part.view.heads
        inside, whole = (
            (part.pattern * lengths[:, heads, None]).sum(-1)
            for lengths in (self.inside(problem), self.lengths(problem))
        )
        return torch.stack([_share(inside, whole), self.even(problem)[part.where]], -1)

    def even(self, problem: Problem) -> Float[Tensor, "batch head query_pos"]:
        """The share under even attention to every key up to the query."""
        real = problem.real_keys[:, None]
        return _share((self.inside(problem) * real).cumsum(-1), (self.lengths(problem) * real).cumsum(-1))

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        inside, whole = needs.functional(self.inside(problem)), needs.functional(self.lengths(problem))

        def read(answer: Primitives) -> Tensor:
            found = there(answer.functionals)
            shares = [_share(found[..., inside], found[..., whole]), self.even(problem)]
            return blank_padding(torch.stack(shares, -1), problem)

        return read


def _share(inside: Tensor, whole: Tensor) -> Tensor:
    """0 in rows that move nothing."""
    return torch.where(whole > 0, inside / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0)
