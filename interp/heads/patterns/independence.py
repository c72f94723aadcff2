"""Heads of the kind: their pattern is the same whatever stands there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.heads.attention import mean_over
from interp.heads.patterns.distance import real
from interp.heads.scorer import Scorer, Scores
from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

PATTERN = "attn.hook_pattern"


@dataclass(frozen=True, eq=False)
class InputIndependence(Scorer):
    """Overlap of the patterns on the prompt and on its own tokens in another order, `sum_j min(p_ij, p'_ij)`; mean over
    queries but the first.

    The first token keeps its place, and all prompts of one length are shuffled alike. Chance is the overlap of the
    pattern with even attention: without it, heads that look everywhere alike would seem to look at places. Patterns of
    one layer stand in memory as a whole.

    Attributes:
        shuffle_seed: of the order.
    """

    name: ClassVar[str] = "input-independence"
    source: ClassVar[str] = "after Hassid et al. 2022, arXiv 2211.03495, who replace patterns by constant ones"
    says: ClassVar[str] = "it looks at the same places whatever stands there"
    chance: ClassVar[str] = "the pattern's overlap with even attention"
    task: ClassVar[str] = "induction"

    shuffle_seed: int = 0

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        values, null = torch.full((2, len(heads), len(pairs)), torch.nan, dtype=torch.float64)
        for start, stop in batches(len(pairs), batch_size):
            batch = pairs.clean.rows(start, stop).to(model.device)
            sides = (batch, shuffled(batch, self.shuffle_seed))
            for layer in sorted({head.layer for head in heads}):
                name = point_name(PATTERN, layer)
                clean, other = (model.run_with_cache(side, name)[1][name].double() for side in sides)
                found = [overlap(clean, against, real(batch, 1)) for against in (other, even_pattern(batch))]
                for index, head in enumerate(heads):
                    if head.layer == layer:
                        values[index, start:stop], null[index, start:stop] = (one[:, head.head].cpu() for one in found)
        return Scores(values.numpy(), null.numpy())


def shuffled(batch: Batch, seed: int) -> Batch:
    """Every prompt with its tokens in another order, but for the first."""
    ids = batch.input_ids.clone()
    for row, (first, length) in enumerate(zip(batch.first.tolist(), batch.lengths.tolist(), strict=True)):
        order = torch.randperm(length - 1, generator=torch.Generator().manual_seed(seed)).to(ids.device)
        inside = slice(first + 1, first + length)
        ids[row, inside] = ids[row, inside][order]
    return replace(batch, inputs={**batch.inputs, "input_ids": ids})


def overlap(
    one: Float[Tensor, "batch head pos pos"],
    other: Float[
        Tensor,
        (
            batch  # head pos pos
        ),
    ],
    rows: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "batch head"]:
    """What two patterns share, mean over some rows: 1 less their total variation distance."""
    return mean_over(torch.minimum(one, other).sum(-1), rows[:, None])


def even_pattern(batch: Batch) -> Float[Tensor, "batch 1 pos pos"]:
    """Even attention to every real key up to the query."""
    keys = real(batch, 0).double()
    seen = keys[:, None, :].expand(-1, keys.shape[1], -1).tril()
    return (seen / seen.sum(-1, keepdim=True).clamp(min=1))[:, None]
