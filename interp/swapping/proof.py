"""Canary of swaps: the model's own attention put in its own place changes nothing, and another operator does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from interp.hooks.batch import Batch
from interp.hooks.names import HeadId
from interp.hooks.probe import IDENTITY, LARGE, TOLERANCE, CanaryRow
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError
from interp.kernels.variants.base import Variant
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.window import Window

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@torch.no_grad()
def prove(model: HookedModel, heads: Sequence[HeadId], batch: Batch) -> tuple[CanaryRow, ...]:
    """Prove, on the first, middle and last layer of `heads`, that swaps compute what the model does and reach the output.

    Raises:
        InterpError: E404 where they do not; E403 where a layer's attention cannot be swapped.
    """
    one = batch.rows(0, 1)
    clean = model(one)
    layers = sorted({(head.tower, head.layer) for head in heads})
    scale = max(1.0, float(clean.abs().max()))
    allowed = max(IDENTITY, TOLERANCE[model.dtype] / 10) * scale

    def changed_by(layer: str, variant: Variant) -> float:
        with model.edit(Swap((f"{layer}H*",), variant)):
            difference = (model(one) - clean).abs()
        if one.mask is not None and difference.shape[:2] == one.mask.shape:
            difference = difference[one.mask.to(difference.device)]  # what stands at padding is nobody's
        return float(difference.max())

    rows = []
    for tower, layer in dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1])):
        name = HeadId(tower, layer, 0).label.removesuffix("H0")
        row = CanaryRow("operator", name, changed_by(name, Softmax()), changed_by(name, Window(size=1)))
        if row.identity > allowed:
            what = f"softmax attention in place of the model's own changes the output by {row.identity:.2e}"
            raise InterpError("E404", f"{what} (allowed {allowed:.2e})", where=name)
        if row.large <= LARGE:
            what = f"heads that see themselves alone change the output by only {row.large:.2e}"
            raise InterpError("E404", what, where=name, fix="leave this layer out with heads=, or the swap is lost")
        rows.append(row)
    return tuple(rows)
