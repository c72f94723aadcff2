"""Heads of the kind: it looks at the tokens that followed any earlier occurrence of the same token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from interp.heads.attention import TargetScorer
from interp.hooks.batch import Batch
from interp.kernels.statistics.targets import occurrences


@dataclass(frozen=True, eq=False)
class PrefixMatching(TargetScorer):
    """Attention to all tokens that followed an earlier occurrence of the query's token, together.

    `induction` counts the latest occurrence alone. Only queries whose token came before count; the published code of
    TransformerLens' head detector divides by all rows, so that its score falls with the number of new tokens.
    """

    name: ClassVar[str] = "prefix-matching"
    source: ClassVar[str] = "Olsson et al. 2022, arXiv 2209.11895, 'prefix matching'"
    says: ClassVar[str] = "it looks at what followed the same token, at any earlier place"

    def targets(self, batch: Batch) -> Int[Tensor, "batch 1 pos target"]:
        return occurrences(batch.input_ids, _most_alike(batch), batch.mask, shift=1)


def _most_alike(batch: Batch) -> int:
    """How often the most frequent token of any prompt stands there."""
    ids, mask = batch.input_ids, batch.mask
    rows = [row if mask is None else row[keep] for row, keep in zip(ids, ids if mask is None else mask, strict=True)]
    return max(int(row.unique(return_counts=True)[1].max()) for row in rows)
