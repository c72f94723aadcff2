"""How far heads look across a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.heads.vision.base import AmongPatches, PatchScorer, over_patches
from interp.kernels.statistics.base import Statistic
from interp.vision.geometry import Geometry

UNITS = ("picture", "patch")


@dataclass(frozen=True, eq=False)
class PatchDistance(PatchScorer):
    """Mean distance from a patch to the patches that it attends to, attention to other tokens left out.

    Agrees with the published code of Walmer et al. 2023 where a tower has one CLS token and a square grid. That code
    takes away the first token alone, so that registers would count as patches, and stops at grids that are not square. A
    patch whose attention rests on other tokens altogether counts with a distance of 0, as there.

    Attributes:
        unit: 'picture', the distance between opposite borders is 1; or 'patch'.

    Raises:
        InterpError: E201, another unit.
    """

    name: ClassVar[str] = "patch-distance"
    source: ClassVar[str] = (
        "Raghu et al. 2021, arXiv 2108.08810; on the unit square, Walmer et al. 2023, arXiv 2212.03862"
    )
    says: ClassVar[str] = "it looks far across the picture"
    ceiling: ClassVar[float | None] = None

    unit: str = "picture"

    def __post_init__(self) -> None:
        self.check_choice("unit", UNITS)

    def statistic(self, where: Geometry) -> Statistic:
        return over_patches(GridDistance(where, self.unit))


@dataclass(frozen=True, eq=False)
class GridDistance(AmongPatches):
    """Mean distance on the grid from each patch to what it attends to."""

    name: ClassVar[str] = "grid-distance"
    formula: ClassVar[str] = "sum_k A_qk |xy_q - xy_k|"

    unit: str = "picture"

    def of_rows(
        self, rows: Float[Tensor, "batch head row patch"], numbers: Int[Tensor, " row"]
    ) -> Float[Tensor, "batch head row"]:
        places = grid_places(self.where.shape, self.unit).to(rows)
        return (rows * torch.cdist(places[numbers], places)).sum(-1)


def grid_places(shape: tuple[int, int], unit: str) -> Float[Tensor, "patch down_across"]:
    """Places of patches, row by row: in patches, or with opposite borders 0 and 1."""
    size = [1 if unit == "patch" else max(1, n - 1) for n in shape]
    down, across = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    return torch.stack([down.flatten() / size[0], across.flatten() / size[1]], -1).double()
