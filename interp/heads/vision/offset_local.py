"""Heads that look to the same side, whichever patch looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from interp.heads.attention import AttentionScorer, Both
from interp.heads.vision.base import EVEN
from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError
from interp.kernels.statistics.base import Statistic
from interp.vision.aligned import best_offset, centre_of_mass
from interp.vision.geometry import geometry
from interp.vision.head_maps import AlignedMap

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

SOURCE = "Walmer et al. 2023, arXiv 2212.03862"


@dataclass(frozen=True, eq=False)
class AlignedScorer(AttentionScorer):
    """A score made of the aligned map of each head."""

    task: ClassVar[str] = "shapes"
    sees: ClassVar[bool] = True
    chance: ClassVar[str] = EVEN

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        return {"aligned": AlignedMap(geometry(model, batch))}


@dataclass(frozen=True, eq=False)
class OffsetLocal(AlignedScorer):
    """What the best neighbour gets: of all offsets within reach, the one that patches attend to most.

    An offset is averaged over the patches that have a patch there, so a head that always looks one step to the right
    scores 1 whatever it does at the right border, and even attention has 1 / (number of patches) at every offset.

    Attributes:
        reach: farthest neighbour that counts, in patches down or across.

    Raises:
        InterpError: E205, a reach under 1.
    """

    name: ClassVar[str] = "offset-local"
    source: ClassVar[str] = f"{SOURCE}: offset-local heads; share at the best offset, edges corrected"
    says: ClassVar[str] = "every patch looks at its neighbour on the same side"

    reach: int = 2

    def __post_init__(self) -> None:
        if self.reach < 1:
            raise InterpError("E205", f"a reach of {self.reach} patches", fix="reach=1 takes the eight neighbours")

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        rows, cols = ((n + 1) // 2 for n in found["aligned"].shape[-2:])
        value, _ = best_offset(found["aligned"].double(), (rows, cols), self.reach)
        return value, torch.full_like(value, 1 / (rows * cols))


@dataclass(frozen=True, eq=False)
class AttentionOffset(AlignedScorer):
    """How far the centre of mass of the aligned map lies from its middle, on axes from -1 to 1.

    The average attention offset of the published code, edges not corrected: the two agree to rounding. Heads that look
    far to one side without a fixed offset have a large one too; `offset-local` tells them apart. That code divides by the
    number of patches and batches instead of pictures, which cancels here.
    """

    name: ClassVar[str] = "attention-offset"
    source: ClassVar[str] = f"{SOURCE}: average attention offset"
    says: ClassVar[str] = "patches look to one side"
    ceiling: ClassVar[float | None] = None

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        value = centre_of_mass(found["aligned"].double()).norm(dim=-1)
        return value, torch.zeros_like(value)
