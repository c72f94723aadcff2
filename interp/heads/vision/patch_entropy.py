"""How spread out attention is over a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.heads.vision.base import AmongPatches, PatchScorer, over_patches
from interp.kernels.statistics.base import Statistic
from interp.vision.geometry import Geometry


@dataclass(frozen=True, eq=False)
class PatchEntropy(PatchScorer):
    """Entropy of each patch's attention among patches over that of even attention; mean over patches.

    Attention to other tokens is left out and the rest normalised again, so that a head which rests on CLS or a register
    is judged by what is left. A claimed head is more spread out than the others of its layer.
    """

    name: ClassVar[str] = "patch-entropy"
    source: ClassVar[str] = "row entropy over patches, Psomas et al. 2025, arXiv 2506.10178, attention statistics"
    says: ClassVar[str] = "its attention is spread over the picture"
    chance: ClassVar[str] = "attention to one patch"

    def statistic(self, where: Geometry) -> Statistic:
        return over_patches(RelativeEntropy(where))


@dataclass(frozen=True, eq=False)
class RelativeEntropy(AmongPatches):
    """-sum p log p / log n, and 0 beside it."""

    name: ClassVar[str] = "patch-entropy"
    formula: ClassVar[str] = "-sum_k p_qk log p_qk / log n"
    high: ClassVar[float] = 1.0

    def of_rows(
        self, rows: Float[Tensor, "batch head row patch"], numbers: Int[Tensor, " row"]
    ) -> Float[Tensor, "batch head row"]:
        return -torch.xlogy(rows, rows).sum(-1) / math.log(rows.shape[-1])

    def by_chance(self, even: Float[Tensor, "1 1 row patch"], numbers: Int[Tensor, " row"]) -> Float[Tensor, "1 1 row"]:
        return torch.zeros_like(even[..., 0])
