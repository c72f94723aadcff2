"""Weighted sums over prompts and positions of what writers write; padding counts where a weight says so, and else nowhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.graph.flow import Flow, Writes
from interp.hooks.batch import Batch

Weights = Float[Tensor, "group batch pos"]
"""How much each cell of the prompts counts in the mean of each group; real tokens alone, every group sums to 1."""


def averaged(flow: Flow, batch: Batch, weights: Weights, chunk: int = 64) -> Writes:
    """Weighted sums over prompts and positions of what every writer writes [1 group ...].

    Args:
        chunk: prompts of one forward.
    """
    total: Writes | None = None
    for start in range(0, batch.size, chunk):
        some = weights[:, start : start + chunk]
        part = flow.record(batch.rows(start, min(start + chunk, batch.size))).map(_summed(some))
        total = part if total is None else total.minus(part.map(torch.neg))
    assert total is not None
    return total


def _summed(weights: Weights) -> Callable[[Tensor], Tensor]:
    """Cells with weight 0 add nothing, whatever stands there."""

    def of(value: Tensor) -> Tensor:
        known = weights.to(value.device).sum(0) > 0
        clean = torch.where(known[(...,) + (None,) * (value.ndim - 2)], value, 0)
        return torch.einsum("gbp,bp...->g...", weights.to(value.device, value.dtype), clean)[None]

    return of
