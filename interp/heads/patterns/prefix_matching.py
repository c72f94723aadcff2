"""Heads of the kind: it looks at the tokens that followed any earlier occurrence of the same token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from interp.heads.attention import TargetScorer
from interp.hooks.batch import Batch
from interp.kernels.statistics.targets import Chain, last_occurrence


@dataclass(frozen=True, eq=False)
class PrefixMatching(TargetScorer):
    """Attention to all tokens that followed an earlier occurrence of the query's token, together.

    `induction` counts the latest occurrence alone. Only queries whose token came before count; the published code of
    TransformerLens' head detector divides by all rows, so that its score falls with the number of new tokens.
    """

    name: ClassVar[str] = "prefix-matching"
    source: ClassVar[str] = "Olsson et al. 2022, arXiv 2209.11895, 'prefix matching'"
    says: ClassVar[str] = "it looks at what followed the same token, at any earlier place"

    def targets(self, batch: Batch) -> Chain:
        return Chain(last_occurrence(batch.input_ids, batch.mask), shift=1)
