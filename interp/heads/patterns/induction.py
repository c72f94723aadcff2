"""Heads of the kind: it looks at the token that followed the same token before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from interp.heads.attention import TargetScorer
from interp.hooks.batch import Batch
from interp.kernels.statistics.targets import after_last_occurrence


@dataclass(frozen=True, eq=False)
class Induction(TargetScorer):
    """The token after the last occurrence of the query's own."""

    name: ClassVar[str] = "induction"
    source: ClassVar[str] = "Olsson et al. 2022, arXiv 2209.11895; exact: only queries whose token came before"
    says: ClassVar[str] = "it looks at the token that followed the same token before"

    def targets(self, batch: Batch) -> Int[Tensor, "batch pos"]:
        return after_last_occurrence(batch.input_ids, batch.mask)
