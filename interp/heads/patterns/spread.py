"""How spread out a head's attention is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from interp.heads.attention import AttentionScorer, Both, mean_over, places
from interp.heads.scorer import Scores
from interp.hooks.batch import Batch
from interp.hooks.names import HeadId
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.entropy import Entropy as RowEntropy

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

COLLAPSED, OVERLOADED = 0.05, 0.95


@dataclass(frozen=True, eq=False)
class Entropy(AttentionScorer):
    """Entropy of each row over that of even attention, log of the keys up to the query; mean over queries but the first.

    The published code (Active-Dormant-Attention) counts the first row, which has nothing to choose from, as 0 in the mean.

    Heads under `COLLAPSED` look at one key a query (entropy collapse, Zhai et al. 2023, arXiv 2303.06296), heads above
    `OVERLOADED` at all alike (entropic overload, Jha and Reagen 2024, arXiv 2410.09637); notes name them. A claimed head
    is more spread out than the others of its layer.
    """

    name: ClassVar[str] = "entropy"
    source: ClassVar[str] = "Guo et al. 2024, arXiv 2410.13835, normalised row entropy H / log(q + 1)"
    says: ClassVar[str] = "its attention is spread out"
    chance: ClassVar[str] = "attention to one key"

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        return {"entropy": RowEntropy()}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        place = places(batch)
        rows = (place > 0) if batch.mask is None else (place > 0) & batch.mask
        most = (place.clamp(min=1) + 1).double().log()
        mean = mean_over(found["entropy"].double() / most[:, None], rows[:, None])
        return mean, mean * 0

    def flagged(self, scores: Scores, heads: Sequence[HeadId]) -> Scores:
        mean = np.nanmean(scores.values, axis=1)
        sides = {"collapsed (one key a query)": mean < COLLAPSED, "overloaded (all keys alike)": mean > OVERLOADED}
        notes = tuple(
            f"Attention {what}: {', '.join(head.label for head, yes in zip(heads, flags, strict=True) if yes)}."
            for what, flags in sides.items()
            if flags.any()
        )
        return replace(scores, notes=(*scores.notes, *notes))
