"""Softplus in the place of the exponential, and what sharpens it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from interp.kernels.errors import InterpError
from interp.kernels.problem import View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.rowwise import Rowwise

STEEP = -36.0
"""Below it `log softplus(x)` is x, and above minus it softplus(x) is x, to rounding in float64 (torch: from 20 on)."""


@dataclass(frozen=True, eq=False)
class Softplus(Rowwise):
    """LSSA: `W_ij = softplus(c_i s_ij) / sum_j softplus(c_i s_ij)` with `c_i = length_scale log n_i`, n_i the keys that
    the query sees. There is no lse.

    Args:
        length_scale: by default `log d_head`.
    """

    name: ClassVar[str] = "softplus"
    source: ClassVar[str] = "Gao and Spratling 2025, arXiv 2501.13428; the scale log d log n is from memory"

    length_scale: float | None = None

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        length_scale = math.log(view.q.shape[3]) if self.length_scale is None else self.length_scale
        sharp = length_scale * _count(allowed, scores).log() * scores.masked_fill(~allowed, 0.0)
        # a softmax over log softplus: the quotient itself would be 0 / 0 where all scores are far below 0
        logs = torch.where(sharp < STEEP, sharp, softplus(sharp.clamp(min=STEEP), threshold=-STEEP).log())
        return Weights(logs.masked_fill(~allowed, float("-inf")).softmax(-1).masked_fill(~allowed, 0.0))


@dataclass(frozen=True, eq=False)
class SoftplusReweighted(Softplus):
    """LSSAR: softplus weights A, then `W_ij = max(n_i A_ij - offset, 0)^power`, rows made to sum to 1.

    A row in which no key stands out (nothing is left, to rounding) keeps A.

    Args:
        power: how much is sharpened.
        offset: the weight, in units of the mean one, from which a key counts.

    Raises:
        InterpError: E205, a power under 1, an offset under 0.
    """

    name: ClassVar[str] = "softplus-reweighted"
    source: ClassVar[str] = "Gao and Spratling 2025, arXiv 2501.13428; power 15 and offset 1 are from memory"
    two_pass: ClassVar[bool] = True

    power: float = 15.0
    offset: float = 1.0

    def __post_init__(self) -> None:
        if self.power < 1 or self.offset < 0:
            raise InterpError(
                "E205", f"power={self.power}, offset={self.offset}", fix="power of 1 or more, offset of 0 or more"
            )

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        plain = super().row(scores, allowed, view).values
        count = _count(allowed, scores)
        left = torch.relu(count * plain - self.offset) * allowed
        most = left.amax(-1, keepdim=True)
        kept = most > 16 * torch.finfo(left.dtype).eps
        powers = (left / torch.where(kept, most, 1.0)) ** self.power  # by the largest first: none of it underflows
        whole = powers.sum(-1, keepdim=True)
        return Weights(torch.where(kept, powers / torch.where(kept, whole, 1.0), plain))


def _count(allowed: Tensor, scores: Tensor) -> Float[Tensor, "#batch #head row 1"]:
    """Keys that each query sees, 1 at least."""
    return allowed.sum(-1, keepdim=True).clamp(min=1).to(scores)
