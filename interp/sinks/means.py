"""Means over the tokens that play a part, and lengths against those of the other tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def part_means(
    values: Float[Tensor, "batch head pos"],
    parts: Bool[Tensor, "part batch *of_heads pos"],
) -> Float[Tensor, "batch head part"]:
    """Mean of each part's values, prompt by prompt; nan where a part has none. Parts are those of all heads, or of each."""
    found = [_mean(values, part) for part in parts.unbind(0)]
    return torch.stack(found, -1)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    kept = where.expand_as(values) if where.ndim == values.ndim else where[:, None].expand_as(values)
    count = kept.sum(-1)
    total = values.double().masked_fill(~kept, 0.0).sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def against_others(
    lengths: Float[Tensor, "batch head pos"], content: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch head pos"]:
    """Each key's length over the mean length of the other content tokens; 1 where all of them are 0, and so is it."""
    weights = content[:, None].double()
    lengths = lengths.double()
    others = (lengths * weights).sum(-1, keepdim=True) - lengths * weights
    mean = others / (weights.sum(-1, keepdim=True) - weights).clamp(min=1)
    return torch.where(mean > 0, lengths / mean.clamp(min=1e-30), torch.where(lengths > 0, torch.inf, 1.0))
