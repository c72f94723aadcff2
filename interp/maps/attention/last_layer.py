"""Raw attention of the last layer: what is shown most often, and what the other maps must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.maps.look import Look
from interp.maps.method import Method


@dataclass(frozen=True, eq=False)
class LastLayer(Method):
    """The read position's attention in the last layer, mean over heads."""

    name: ClassVar[str] = "last-layer"
    source: ClassVar[str] = "usual; judged by Jain and Wallace 2019, arXiv 1902.10186"
    says: ClassVar[str] = "the last layer looks at it where the answer is read"
    reads: ClassVar[str] = "attention"

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        return einsum(look.rows, look.patterns[-1].mean(1), "batch query_pos, batch query_pos key_pos -> batch key_pos")
