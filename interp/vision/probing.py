"""Which tokens a patch reaches, found by changing it: the proof of a geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.batch import Batch
from interp.hooks.names import point_name

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

LEAST = 1e-5
"""Of the largest change: less is rounding."""


class _Reached(Exception):
    """What was wanted has been read, so the forward need not go on."""


def stream_at(
    model: HookedModel, batch: Batch, point: str, edits: dict[str, HookFn] | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream at one point; nothing behind it runs."""
    seen: list[Tensor] = []

    def read(value: Tensor, _: HookContext) -> None:
        seen.append(value.detach().clone())
        raise _Reached

    try:
        model.run_with_hooks(batch, {**(edits or {}), point: read})
    except _Reached:
        pass
    return seen[0]


def changed(before: Tensor, after: Tensor) -> list[int]:
    """Tokens of the first prompt whose vectors differ."""
    size = (after - before)[0].abs().amax(-1)
    return [] if float(size.max()) == 0 else (size > LEAST * size.max()).nonzero()[:, 0].tolist()


def entering_point(model: HookedModel, tower: str) -> str:
    """The stream before any token has looked at another."""
    first = next(layer for layer, n in enumerate(model.heads[tower]) if n)
    return point_name("hook_resid_pre", first, tower)


def brightened(batch: Batch, box: tuple[int, int, int, int] | int) -> Batch:
    """One prompt with one patch of its picture changed.

    Args:
        box: top, left, bottom and right pixel, or the row of a picture that is given as rows of patches.
    """
    pixels = batch.inputs["pixel_values"].clone()
    if isinstance(box, int):
        pixels[box] += 1
    else:
        top, left, bottom, right = box
        pixels[..., top:bottom, left:right] += 1
    return replace(batch, inputs={**batch.inputs, "pixel_values": pixels})


def shifted(token: int) -> HookFn:
    """A hook that adds random numbers to one token's vector, larger than any in the stream."""

    def shift(value: Tensor, _: HookContext) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        direction = torch.randn(value.shape[-1], generator=draw).to(value.device, value.dtype)
        moved = value.clone()
        moved[:, token] += direction * (1 + value.abs().max())
        return moved

    return shift


def reached_text(model: HookedModel, tower: str, batch: Batch, token: int) -> list[int]:
    """Positions of the text whose vectors change with a token of the tower, in the last layer that is read at all."""
    point = entering_point(model, "")
    before = stream_at(model, batch, point)
    for layer in reversed(range(len(model.heads[tower]))):
        # what leaves a layer may be noted down before hooks on it run, so the edit is made inside it
        hook = {point_name("hook_mlp_out", layer, tower): shifted(token)}
        if found := changed(before, stream_at(model, batch, point, hook)):
            return found
    return []
