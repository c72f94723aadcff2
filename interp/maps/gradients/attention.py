"""Attention times its gradient, over all layers, heads and queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.maps.gradients.base import GradientMap
from interp.maps.look import Look

SLOPES = ("all", "positive")


@dataclass(frozen=True, eq=False)
class GradientAttention(GradientMap):
    """`sum_lhq A * dM/dA`: to first order what the metric loses where attention to the token is turned down and given to
    no other.

    Attributes:
        slopes: 'all', or 'positive' as Grad-SAM has it (which takes means in place of sums).

    Raises:
        InterpError: E201, another word for `slopes`.
    """

    name: ClassVar[str] = "gradient-attention"
    source: ClassVar[str] = "Barkan et al. 2021, Grad-SAM, arXiv 2204.11073, with slopes of either sign"
    says: ClassVar[str] = "the metric falls, to first order, when all attention to it is turned down"
    signed: ClassVar[bool] = True

    slopes: str = "all"

    def __post_init__(self) -> None:
        self.check_choice("slopes", SLOPES)

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        least = 0.0 if self.slopes == "positive" else -torch.inf
        parts = [
            (pattern * slope.clamp(min=least)).sum((1, 2))
            for pattern, slope in zip(look.patterns, look.pattern_slopes, strict=True)
        ]
        return torch.stack(parts).sum(0)
