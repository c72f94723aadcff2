"""Heads of the kind: nearly all queries look at one early token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.attention import AttentionScorer, Both, places
from interp.heads.patterns.distance import real
from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.received import Received

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class SinkShare(AttentionScorer):
    """Mean attention that a token receives from the queries that see it, of the token that receives most.

    `alpha_k = sum_{i >= k} p_ik / (T - k)`. The published code takes every token, and so finds sinks at the end of a
    prompt, where one or two queries make up the mean; here a token needs `least` queries. Published cuts are 0.3
    (Attention-Sink) and 0.1 (ACT, arXiv 2406.15765).

    Attributes:
        least: queries that must see a token.

    Raises:
        InterpError: E205, less than 1 query.
    """

    name: ClassVar[str] = "sink-share"
    source: ClassVar[str] = "Gu et al. 2024, arXiv 2410.10781, section 3.1"
    says: ClassVar[str] = "nearly all queries look at one token"
    chance: ClassVar[str] = "even attention to every key up to the query"

    least: int = 8

    def __post_init__(self) -> None:
        if self.least < 1:
            raise InterpError("E205", f"tokens that {self.least} queries see", where="scorer sink-share", fix="from 1")

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        return {"received": Received()}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        received = found["received"].double()
        each = torch.where(real(batch, 0), 1 / (places(batch).clamp(min=0) + 1).double(), 0.0)
        even = each.flip(-1).cumsum(-1).flip(-1)
        most = self._most(received, batch)
        return most, self._most(even[:, None].expand_as(received), batch)

    def _most(self, received: Float[Tensor, "batch head pos"], batch: Batch) -> Float[Tensor, "batch head"]:
        """Largest mean over tokens that enough queries see; NaN in prompts without such a token."""
        queries = real(batch, 0).double().flip(-1).cumsum(-1).flip(-1)
        counted = real(batch, 0) & (queries >= self.least)
        alpha = (received / queries.clamp(min=1)[:, None]).masked_fill(~counted[:, None], -torch.inf).amax(-1)
        return alpha.masked_fill(alpha == -torch.inf, torch.nan)
