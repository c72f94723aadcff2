"""How far back heads look, and how much of it stays near by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.heads.attention import LEFT_OVER, AttentionScorer, Both, mean_over, places
from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.distances import ClippedDistance, MeanDistance
from interp.kernels.statistics.influence import FutureInfluence
from interp.kernels.statistics.masses import SinkMass

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

SOURCE = "Attention Illuminates LLM Reasoning (2025), arXiv 2510.13554"


@dataclass(frozen=True, eq=False)
class AttentionDistance(AttentionScorer):
    """Mean distance from a query to what it attends to, in tokens; mean over queries but the first.

    A head that rests on the first token looks as far as can be, so 'excluded' leaves that token out of every row and
    renormalises; rows with nothing left, and the second query, which has one other key, count nowhere.

    Attributes:
        sinks: 'raw' or 'excluded'.

    Raises:
        InterpError: E201, another word for `sinks`.
    """

    name: ClassVar[str] = "attention-distance"
    source: ClassVar[str] = SOURCE
    says: ClassVar[str] = "it looks far back"
    chance: ClassVar[str] = "even attention to every key up to the query"
    ceiling: ClassVar[float | None] = None

    sinks: str = "raw"

    def __post_init__(self) -> None:
        self.check_choice("sinks", ("raw", "excluded"))

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        first: dict[str, Statistic] = {"first": SinkMass(1)} if self.sinks == "excluded" else {}
        return {"distance": MeanDistance(), **first}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        place, distance = places(batch)[:, None].double(), found["distance"].double()
        if self.sinks == "raw":
            rows = real(batch, 1)[:, None]
            return mean_over(distance, rows), mean_over((place / 2).expand_as(distance), rows)
        left = 1 - found["first"].double()
        rows = real(batch, 2)[:, None] & (left > LEFT_OVER)
        rest = (distance - found["first"].double() * place) / left.clamp(min=LEFT_OVER)
        return mean_over(rest, rows), mean_over(((place - 1) / 2).expand_as(rest), rows)


@dataclass(frozen=True, eq=False)
class ClippedAttentionDistance(AttentionScorer):
    """WAAD: mean of the distance to what a query attends to, where far keys all count as `window` tokens away.

    Attributes:
        window: in tokens.

    Raises:
        InterpError: E205, a window under 1.
    """

    name: ClassVar[str] = "waad"
    source: ClassVar[str] = SOURCE
    says: ClassVar[str] = "it looks beyond its neighbours"
    chance: ClassVar[str] = "even attention to every key up to the query"
    ceiling: ClassVar[float | None] = None

    window: int = 10

    def __post_init__(self) -> None:
        ClippedDistance(self.window)

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        return {"distance": ClippedDistance(self.window)}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        distance, rows = found["distance"].double(), real(batch, 1)[:, None]
        place = places(batch).clamp(min=0).double()
        near = place.clamp(max=self.window)
        total = near * (near + 1) / 2 + (place - near) * self.window
        return mean_over(distance, rows), mean_over((total / (place + 1))[:, None].expand_as(distance), rows)


@dataclass(frozen=True, eq=False)
class FutureAttentionInfluence(AttentionScorer):
    """FAI: mean attention that a token receives from queries well after it; mean over tokens that have such queries.

    Attributes:
        delta, horizon: the nearest and the last query that counts, in tokens after the key.

    Raises:
        InterpError: E205, a delta under 0, or a horizon under delta.
    """

    name: ClassVar[str] = "fai"
    source: ClassVar[str] = SOURCE
    says: ClassVar[str] = "later tokens look back at tokens long past"
    chance: ClassVar[str] = "even attention to every key up to the query"

    delta: int = 10
    horizon: int = 50

    def __post_init__(self) -> None:
        FutureInfluence(self.delta, self.horizon)

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        return {"influence": FutureInfluence(self.delta, self.horizon)}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        influence = found["influence"].double()
        defined = influence.isfinite()
        null = self._even(batch).to(influence)[:, None].expand_as(influence)
        return mean_over(influence, defined), mean_over(null, defined & null.isfinite())

    def _even(self, batch: Batch) -> Tensor:
        """Mean of 1 / (keys up to the query) over the queries in each key's range."""
        share = torch.where(real(batch, 0), 1 / (places(batch).clamp(min=0) + 1).double(), 0.0)
        seen, total = real(batch, 0).double(), torch.zeros_like(share)
        count, width = torch.zeros_like(share), share.shape[1]
        for distance in range(self.delta, min(self.horizon, width - 1) + 1):
            total[:, : width - distance] += share[:, distance:]
            count[:, : width - distance] += seen[:, distance:]
        return torch.where(count > 0, total / count, torch.nan)


def real(batch: Batch, start: int) -> Bool[Tensor, "batch pos"]:
    """Real tokens from a place on."""
    later = places(batch) >= start
    return later if batch.mask is None else later & batch.mask


def local_and_global(mean: Tensor, share: float = 0.3) -> tuple[list[int], list[int]]:
    """Numbers of the heads that look least and most far back: local heads, and global ones.

    Args:
        mean: distance of each head; give it without the first token, or heads at rest pass for global ones.
        share: how many of them, each.

    Raises:
        InterpError: E205, a share that is not above 0 and at most one half.
    """
    if not 0 < share <= 0.5:
        raise InterpError("E205", f"a share of {share:g}", fix="above 0, at most 0.5")
    known = torch.where(mean.isfinite())[0]
    count = max(1, int(share * len(known)))
    order = known[mean[known].argsort(stable=True)].tolist()
    return sorted(order[:count]), sorted(order[-count:])
