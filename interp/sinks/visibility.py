"""How many queries may see each key, and what even attention would give it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.adapters.base import AttentionCall
from interp.hooks.swap import seen_by


def visibility(call: AttentionCall) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, "batch pos"], bool]:
    """For each key the number of real queries that may see it, and what it would receive from each of them on average,
    were attention spread evenly over all visible keys: for a causal row of T tokens `(H_T - H_k) / (T - k)`. And whether
    later keys are hidden.

    Linear in length, but where the model itself brings a mask of its squared length (sliding windows).
    """
    key_mask, mask, _, causal = seen_by(call)
    real = call.k.new_ones(call.k.shape[0], call.k.shape[2], dtype=torch.bool) if key_mask is None else key_mask
    if mask is not None:
        allowed = mask.any(1) & real[:, :, None]
        share = allowed / allowed.sum(-1, keepdim=True).clamp(min=1)
        count = allowed.sum(1).double()
        return count, share.double().sum(1) / count.clamp(min=1), causal
    seen = real.double()
    if not causal:
        count = seen.sum(-1, keepdim=True) * seen
        return count, seen / count.clamp(min=1), False
    before = seen.cumsum(-1)
    count = (seen.sum(-1, keepdim=True) - before + 1) * seen
    parts = seen / before.clamp(min=1)
    tail = parts.flip(-1).cumsum(-1).flip(-1)
    return count, tail * seen / count.clamp(min=1), True
