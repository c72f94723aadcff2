"""Heads that look at a place, whatever stands there: the query itself, or the first token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from interp.heads.attention import TargetScorer, places
from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError


@dataclass(frozen=True, eq=False)
class CurrentToken(TargetScorer):
    """The query's own token."""

    name: ClassVar[str] = "current-token"
    source: ClassVar[str] = "the diagonal of the pattern; Elhage et al. 2021"
    says: ClassVar[str] = "it looks at the query itself"

    def targets(self, batch: Batch) -> Int[Tensor, "batch pos"]:
        place = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)
        return torch.where(_later(batch), place, -1)


@dataclass(frozen=True, eq=False)
class FirstToken(TargetScorer):
    """The first token of the prompt, from every later one.

    Raises:
        InterpError: E205, `sinks="excluded"`, which would leave the first token out.
    """

    name: ClassVar[str] = "first-token"
    source: ClassVar[str] = "Xiao et al. 2023, arXiv 2309.17453; whether it is a sink, `interp sinks` asks"
    says: ClassVar[str] = "it looks at the first token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sinks == "excluded":
            raise InterpError("E205", "attention to the first token, without the first token", fix="sinks='value'")

    def targets(self, batch: Batch) -> Int[Tensor, "batch pos"]:
        return torch.where(_later(batch), batch.first[:, None], -1)


def _later(batch: Batch) -> Tensor:
    """Real tokens after the first."""
    later = places(batch) > 0
    return later if batch.mask is None else later & batch.mask
