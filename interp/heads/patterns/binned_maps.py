"""Attention maps of heads at one size, for prompts of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.names import HeadId, point_name

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

BINS = 16


def binned_maps(
    model: HookedModel, batch: Batch, heads: Sequence[HeadId], bins: int = BINS
) -> Float[np.ndarray, "head query key"]:
    """Each head's map at one size for prompts of any length: mean mass of a bin of queries on a bin of keys."""
    found: dict[int, Tensor] = {}
    for layer in sorted({head.layer for head in heads}):
        name = point_name("attn.hook_pattern", layer)
        pattern = model.run_with_cache(batch, name)[1][name].double()
        keys, queries = bin_weights(batch, bins).to(pattern), bin_weights(batch, bins, mean=True).to(pattern)
        found[layer] = torch.einsum("bnq,bhqk,bmk->hnm", queries, pattern, keys).cpu() / batch.size
    return np.stack([found[head.layer][head.head].numpy() for head in heads])


def bin_weights(batch: Batch, bins: int, *, mean: bool = False) -> Float[Tensor, "batch bin pos"]:
    """Which share of each token falls into each bin of its prompt; with `mean`, rows that sum to 1."""
    weights = torch.zeros(batch.size, bins, batch.input_ids.shape[1], dtype=torch.float64)
    for row, (first, length) in enumerate(zip(batch.first.tolist(), batch.lengths.tolist(), strict=True)):
        edges = torch.arange(bins + 1, dtype=torch.float64) * length / bins
        starts = torch.arange(length, dtype=torch.float64)
        inside = torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)
        weights[row, :, first : first + length] = inside.clamp(min=0)
    return weights / weights.sum(-1, keepdim=True) if mean else weights
