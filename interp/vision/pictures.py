"""The same prompts with another picture, a blank one, or none: what a head that sees is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from interp.hooks.batch import Batch, pad
from interp.hooks.examples import Example
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.pictures import ROLE
from interp.hooks.prompts import pad_id
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Picture = UInt8[np.ndarray, "height width 3"]
Read = tuple[Batch, Int[Tensor, " batch"]]
"""Prompts, and the position of each at which its answer is read."""


def check_pictures(batch: Batch) -> None:
    """Raise E314 where prompts have no picture among their tokens."""
    if ROLE not in batch.spans or not all(batch.spans[ROLE]):
        fix = "use prompts with a picture, such as those of the task shapes"
        raise InterpError("E314", "a prompt without a picture among its tokens", fix=fix)


def image_tokens(batch: Batch) -> Bool[Tensor, "batch pos"]:
    """Where a picture's tokens stand (E314)."""
    check_pictures(batch)
    found = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    for row, span in enumerate(batch.spans[ROLE]):
        found[row, list(span)] = True
    return found


def after_image(batch: Batch) -> Bool[Tensor, "batch pos"]:
    """Real tokens behind the picture: the question, and what follows it (E314)."""
    image = image_tokens(batch)
    assert batch.mask is not None
    behind = image.flip(1).cumsum(1).flip(1) == 0
    return behind & batch.mask


def without_picture(model: HookedModel, batch: Batch, read_at: Int[Tensor, " batch"]) -> Read:
    """The prompts without the tokens of their picture; all others stay, and move up (E314)."""
    image = image_tokens(batch)
    assert batch.mask is not None
    keep = batch.mask & ~image
    rows = [ids[kept].tolist() for ids, kept in zip(batch.input_ids, keep, strict=True)]
    counts = [int(kept[: int(at)].sum()) for kept, at in zip(keep, read_at, strict=True)]
    return pad(rows, pad_id(model.tokenizer)).to(model.device), torch.tensor(counts)


def blank(picture: Picture) -> Picture:
    """A picture of the same size that shows nothing: its mean colour everywhere."""
    return np.broadcast_to(picture.mean((0, 1)).round().astype(np.uint8), picture.shape).copy()


def blanked(model: HookedModel, examples: Sequence[Example]) -> Read:
    """Examples with a blank picture each, read as the model's processor reads them (E314)."""
    if any(one.image is None for one in examples):
        raise InterpError("E314", "a prompt without a picture", fix="use prompts with a picture")
    bare = [replace(one, image=blank(one.image), corrupt=None, corrupt_image=None) for one in examples]
    pairs = tokenise(model.tokenizer, bare, processor=model.processor)
    return pairs.clean.to(model.device), pairs.read_at


def read_of(pairs: Pairs, start: int, stop: int) -> Read:
    """Some prompts, and where they are read."""
    return pairs.clean.rows(start, stop), pairs.read_at[start:stop]
