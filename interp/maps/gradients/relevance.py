"""Relevance: attention times its positive gradient, added up through the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.maps.gradients.base import GradientMap
from interp.maps.look import Look


@dataclass(frozen=True, eq=False)
class Relevance(GradientMap):
    """The read position's row of R, with `R <- R + mean_h (A * dM/dA)^+ R` from the first layer on and R = I before it.

    The rule of the paper for attention to the same sequence; the row's own 1 of I stays in it.
    """

    name: ClassVar[str] = "relevance"
    source: ClassVar[str] = "Chefer et al. 2021, arXiv 2103.15679, eq. 5 and 6"
    says: ClassVar[str] = "attention that speaks for the answer leads to it through all layers"

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        layers = [
            (pattern * slope).clamp(min=0).mean(1)
            for pattern, slope in zip(look.patterns, look.pattern_slopes, strict=True)
        ]
        found = look.rows[:, None]
        for layer in reversed(layers):  # (1 + A_n) ... (1 + A_1), row by row
            found = found + torch.matmul(found, layer)
        return found[:, 0]
