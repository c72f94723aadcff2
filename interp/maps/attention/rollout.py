"""Attention rollout: patterns multiplied through the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.maps.attention.mixing import mixing, rolled
from interp.maps.look import Look
from interp.maps.method import Method


@dataclass(frozen=True, eq=False)
class Rollout(Method):
    """The read position's row of `M_n ... M_1` with `M = rowNorm(mean_h A_h + I)`, which is (A + I)/2 for a softmax.

    Numbers of a prompt sum to 1.
    """

    name: ClassVar[str] = "rollout"
    source: ClassVar[str] = "Abnar and Zuidema 2020, arXiv 2005.00928, section 3"
    says: ClassVar[str] = "attention leads from the answer to it, step by step through all layers"
    reads: ClassVar[str] = "attention"

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        return rolled([mixing(pattern.mean(1)) for pattern in look.patterns], look.rows)
