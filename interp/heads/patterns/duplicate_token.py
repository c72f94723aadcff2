"""Heads of the kind: it looks at where the same token stood before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from interp.heads.attention import TargetScorer
from interp.hooks.batch import Batch
from interp.kernels.statistics.targets import last_occurrence


@dataclass(frozen=True, eq=False)
class DuplicateToken(TargetScorer):
    """Where the same token stood last.

    TransformerLens' head detector ("mul") counts every earlier place of the token, and divides by all rows, also by those
    whose token is new; here rows count whose token came before.
    """

    name: ClassVar[str] = "duplicate-token"
    source: ClassVar[str] = "Wang et al. 2022, arXiv 2211.00593, section 3.1"
    says: ClassVar[str] = "it looks at where the same token stood before"

    def targets(self, batch: Batch) -> Int[Tensor, "batch pos"]:
        return last_occurrence(batch.input_ids, batch.mask)
