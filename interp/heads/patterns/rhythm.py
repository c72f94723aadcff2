"""How local heads and global heads take turns along a text: WAAD of the ones, FAI of the others, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.patterns.distance import AttentionDistance, local_and_global
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.statistics.distances import ClippedDistance
from interp.kernels.statistics.influence import FutureInfluence

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Rhythm:
    """Two curves over every prompt; both are those of the mean pattern of their heads, because both are linear in it.

    Attributes:
        local_heads, global_heads: labels.
        waad: how far back local heads look from each token, where far keys all count as one window away.
        fai: what each token receives of global heads from well after it; NaN where nothing comes so long after.
    """

    local_heads: tuple[str, ...]
    global_heads: tuple[str, ...]
    waad: Float[Tensor, "prompt pos"]
    fai: Float[Tensor, "prompt pos"]


def rhythm(
    model: HookedModel, pairs: Pairs, *, share: float = 0.3, window: int = 10, delta: int = 10, horizon: int = 50
) -> Rhythm:
    """WAAD of the heads that look least far back, and FAI of those that look farthest.

    Attention Illuminates LLM Reasoning (2025), arXiv 2510.13554: WAAD_t = sum_s A_local[t, s] min(t - s, W) and FAI_s the
    mean over t in [s + delta, s + horizon] of A_global[t, s]. Heads are sorted here by their distance without the first
    token; with it, heads at rest would pass for global ones.

    Args:
        share: of all heads, that are local and that are global.
        window, delta, horizon: see `ClippedDistance` and `FutureInfluence`.

    Raises:
        InterpError: E205 a share, window or range that makes no sense; E403 attention that can't be read.
    """
    heads = [HeadId("", layer, head) for layer, n in enumerate(model.heads[""]) for head in range(n)]
    distance = AttentionDistance(sinks="excluded").measure(model, pairs, heads, len(pairs)).values
    local, far = local_and_global(torch.from_numpy(distance).nanmean(1), share)
    asked = {"waad": ClippedDistance(window), "fai": FutureInfluence(delta, horizon)}
    _, found = model.run_with_statistics(pairs.clean, asked)

    def mean(name: str, chosen: Sequence[int]) -> Tensor:
        return torch.stack([found[heads[index].layer][name][:, heads[index].head] for index in chosen]).mean(0)

    local_labels, far_labels = (tuple(heads[index].label for index in chosen) for chosen in (local, far))
    return Rhythm(local_labels, far_labels, mean("waad", local), mean("fai", far))
