"""Heads of the kind: it looks at the token before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from interp.heads.attention import TargetScorer
from interp.hooks.batch import Batch
from interp.kernels.statistics.targets import previous_token


@dataclass(frozen=True, eq=False)
class PreviousToken(TargetScorer):
    """The token before.

    TransformerLens' head detector ("mul") divides by all rows, the first one with them, so that at most (T - 1) / T is
    possible there; here rows count that have a token before.
    """

    name: ClassVar[str] = "previous-token"
    source: ClassVar[str] = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
    says: ClassVar[str] = "it looks at the token before"

    def targets(self, batch: Batch) -> Int[Tensor, "batch pos"]:
        return previous_token(batch.input_ids, batch.mask)
