"""Each token taken away by itself: the causal map that the others are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.maps.look import Look
from interp.maps.method import Method
from interp.maps.removal import WAYS, leave_one_out


@dataclass(frozen=True, eq=False)
class LeaveOneOut(Method):
    """What the metric loses without the token.

    Attributes:
        way: 'knockout', no other token looks at it; or 'neutral', a neutral token stands in its place.

    Raises:
        InterpError: E201, another way.
    """

    name: ClassVar[str] = "leave-one-out"
    source: ClassVar[str] = "Li et al. 2016, arXiv 1612.08220, eq. 1, with attention knocked out in place of dimensions"
    says: ClassVar[str] = "the metric falls without it"
    reads: ClassVar[str] = "changes"
    signed: ClassVar[bool] = True

    way: str = "knockout"

    def __post_init__(self) -> None:
        self.check_choice("way", WAYS)

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        return leave_one_out(look, look.real, self.way)
