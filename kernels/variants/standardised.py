"""Attention whose rows have mean 0 and variance 1, instead of sum 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.problem import View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.rowwise import Rowwise

EPSILON = 1e-8
"""Added to the variance: rows of equal scores become 0."""


@dataclass(frozen=True, eq=False)
class Standardised(Rowwise):
    """Normalized attention: `W_ij = gain (s_ij - mean_i) / sqrt(variance_i + 1e-8) + shift` over the keys that the query
    sees. Weights have either sign, rows sum to `shift` times the number of keys, and there is no lse.

    Args:
        gain, shift: the affine part, for all heads.
    """

    name: ClassVar[str] = "standardised"
    source: ClassVar[str] = (
        "NAP: Richter and Wattenhofer 2020, arXiv 2005.09561; mean and variance over keys from memory"
    )
    normalised: ClassVar[bool] = False
    non_negative: ClassVar[bool] = False

    gain: float = 1.0
    shift: float = 0.0

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        count = allowed.sum(-1, keepdim=True).clamp(min=1)
        finite = scores.masked_fill(~allowed, 0.0)
        off = (finite - finite.sum(-1, keepdim=True) / count) * allowed
        variance = off.square().sum(-1, keepdim=True) / count
        return Weights((self.gain * off * (variance + EPSILON).rsqrt() + self.shift) * allowed)
