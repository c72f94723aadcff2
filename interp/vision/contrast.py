"""CARVE: what a question makes a model look at, against what it looks at anyway; the rest of the picture is blanked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.batch import Batch, pad
from interp.hooks.naive import batches
from interp.hooks.names import point_name
from interp.hooks.pictures import ROLE
from interp.hooks.prompts import pad_id
from interp.kernels.errors import InterpError
from interp.vision.geometry import geometry
from interp.vision.modulation import most_looked_at
from interp.vision.pictures import Read, image_tokens

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

QUESTION = "question"
LEAST = 1e-3
"""Added to attention that is divided by."""


def carved(
    model: HookedModel, read: Read, *, keep: float = 0.5, layers: Sequence[int] | None = None, batch_size: int = 64
) -> Batch:
    """The prompts with pictures of which only the patches are left that the question draws attention to.

    CARVE (Ge et al. 2025, Focusing by Contrastive Attention), as its abstract is read here: of the attention of the last
    token to the picture, mean over heads and layers, with the question over that without it, the largest stay; other
    patches get the picture's mean colour. The paper's code was not seen; it enlarges what is left, which is not done here.

    Args:
        keep: share of the image tokens that stays.
        layers: whose attention counts; None takes the later half.

    Raises:
        InterpError: E205, a share outside 0 to 1; E313, prompts whose question has no role; what `geometry` raises.
    """
    if not 0 <= keep <= 1:
        raise InterpError("E205", f"keep is {keep}", where="CARVE", fix="a share from 0 to 1")
    chosen = list(range(model.n_layers // 2, model.n_layers)) if layers is None else list(layers)
    parts = []
    for start, stop in batches(read[0].size, batch_size):
        batch = read[0].rows(start, stop)
        asked = image_looks(model, (batch, read[1][start:stop]), chosen)
        plain = image_looks(model, without_question(model, batch), chosen)
        ratio = asked / (plain + LEAST)
        count = torch.full((batch.size,), round(keep * ratio.shape[1]))
        parts.append(_blanked(model, batch, ~most_looked_at(ratio, count)))
    return replace(read[0], inputs={**read[0].inputs, "pixel_values": torch.cat(parts)})


def image_looks(model: HookedModel, read: Read, layers: Sequence[int]) -> Float[Tensor, "batch image_token"]:
    """Attention from where the answer is read to each image token, mean over heads and layers."""
    names = [point_name("attn.hook_pattern", layer) for layer in layers]
    _, cache = model.run_with_cache(read[0], names)
    rows = torch.arange(read[0].size)
    looks = torch.stack([cache[name][rows, :, read[1]].mean(1) for name in names]).mean(0)
    return torch.stack([row[list(span)] for row, span in zip(looks, read[0].spans[ROLE], strict=True)]).cpu()


def without_question(model: HookedModel, batch: Batch) -> Read:
    """The prompts without the words of their question (E313)."""
    if QUESTION not in batch.spans:
        raise InterpError("E313", "prompts have no role 'question'", where="CARVE", fix="mark it in every prompt")
    assert batch.mask is not None
    keep = batch.mask.clone()
    for row, span in enumerate(batch.spans[QUESTION]):
        keep[row, list(span)] = False
    bare = pad([ids[kept].tolist() for ids, kept in zip(batch.input_ids, keep, strict=True)], pad_id(model.tokenizer))
    image = [row[kept] for row, kept in zip(image_tokens(batch), keep, strict=True)]
    spans = {ROLE: tuple(tuple(row.nonzero().flatten().tolist()) for row in image)}
    extra = {name: value for name, value in batch.inputs.items() if name not in (*bare.inputs, "position_ids")}
    return replace(bare, inputs={**bare.inputs, **extra}, spans=spans, counts=batch.counts), bare.end


def _blanked(model: HookedModel, batch: Batch, hidden: Bool[Tensor, "batch image_token"]) -> Tensor:
    """Pixels with the mean colour where image tokens are hidden."""
    found, pixels = geometry(model, batch), batch.inputs["pixel_values"].clone()
    assert found.text is not None and pixels.ndim == 4
    mean = pixels.mean((2, 3))
    for row in range(found.text.shape[0]):
        for col in range(found.text.shape[1]):
            top, left, bottom, right = found.text_box(row, col)
            gone = hidden[:, int(found.text[row, col])]
            pixels[gone, :, top:bottom, left:right] = mean[gone][:, :, None, None]
    return pixels
