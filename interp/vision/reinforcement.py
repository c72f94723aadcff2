"""VHR: the heads that a picture moves most are made stronger, chosen for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.naive import batches
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.vision.divergence import AtAnswer, answer_z, divergence, without_outliers
from interp.vision.edits import Weigh
from interp.vision.pictures import Read, without_picture

if TYPE_CHECKING:
    from interp.hooks.edits import Positions
    from interp.hooks.model import HookedModel

ORIGIN = "VHR"


def reinforcement(
    model: HookedModel,
    read: Read,
    *,
    alpha: float = 2.0,
    layers: Sequence[int] | None = None,
    measure: str = "l2",
    positions: Positions = None,
    batch_size: int = 64,
) -> Weigh:
    """Vision-aware head reinforcement: z of the heads whose divergence is above their layer's median, times alpha.

    He et al. 2025, arXiv 2412.13949, Algorithm 1: heads are chosen once for each prompt, before anything is written, layer
    by layer, with the layers before reinforced already, both with the picture and without. Two forwards a layer. The
    official code was not seen; an outside port takes layer 1 and the last 14 of 32, and squared distances.

    Args:
        layers: where heads are reinforced; None, all.
        positions: where the intervention will act; the paper's text leaves it open. 'end' is the token whose output is
            read and every one that is written, None the whole text.

    Returns:
        An intervention for these prompts, in this order.

    Raises:
        InterpError: E314, prompts without a picture.
    """
    chosen = list(range(model.n_layers)) if layers is None else sorted(layers)
    parts = [
        _factors(model, (read[0].rows(start, stop), read[1][start:stop]), chosen, alpha, measure, positions)
        for start, stop in batches(read[0].size, batch_size)
    ]
    return Weigh(
        Reference({name: torch.cat([one[name] for one in parts]) for name in parts[0]}, ORIGIN, paired=True), positions
    )


def _factors(
    model: HookedModel, read: Read, layers: Sequence[int], alpha: float, measure: str, positions: Positions
) -> dict[str, Float[Tensor, "batch head"]]:
    """Factor of each head, by the name of its layer's z."""
    bare, found = without_picture(model, *read), dict[str, Tensor]()
    here = replace(bare[0], spans={})
    for layer in layers:
        done = [Weigh(Reference(found, ORIGIN, paired=True), positions)] if found else []
        with model.edit(*done):
            seen, unseen = (answer_z(model, one, [layer]) for one in (read, (here, bare[1])))
        found[point_name("attn.hook_z", layer)] = 1 + (alpha - 1) * vision_aware(seen, unseen, layer, measure).float()
    return found


def vision_aware(seen: AtAnswer, unseen: AtAnswer, layer: int, measure: str) -> Bool[Tensor, "batch head"]:
    """Heads above the median of their layer, the outlier rule applied."""
    found = without_outliers(divergence(seen[layer], unseen[layer], measure), unseen[layer])
    return (found > found.median(-1, keepdim=True).values).cpu()
