"""Prompts with a picture: ids and inputs as the model's processor makes them, and which tokens stand for the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.prompts import Encoded
from interp.kernels.errors import InterpError

ROLE = "image"
"""Role of the tokens that stand for the picture."""


def encode_picture(processor: Any, text: str, picture: UInt8[ndarray, "height width 3"]) -> Encoded:
    """A prompt with one picture, as a processor reads it.

    Where the text does not spell the processor's image token, the picture stands before it, on a line of its own. For
    models that read pictures alone the text must be empty.

    Raises:
        InterpError: E201 no processor; E303 a text for a model without one, or several places for one picture.
    """
    if processor is None:
        raise InterpError("E201", "a prompt with a picture, but the model was opened without a processor for images")
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        if text:
            fix = "leave the text of these prompts empty"
            raise InterpError("E303", f"the text {text!r}, but this model reads pictures alone", fix=fix)
        return Encoded([], inputs=dict(processor(images=picture, return_tensors="pt")))
    sign = getattr(processor, "image_token", None)
    if sign is None:  # pictures and texts are read apart
        full = processor(text=[text], images=[picture], return_tensors="pt")
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return _encoded(full, tuple(map(tuple, offsets)), ())
    written = text if sign in text else f"{sign}\n{text}"
    if written.count(sign) > 1:
        raise InterpError("E303", f"{written.count(sign)} places for one picture", fix=f"write {sign} once")
    full = processor(text=[written], images=[picture], return_tensors="pt")
    plain = tokenizer(written, return_offsets_mapping=True)
    place = full["input_ids"][0] == image_id(processor)
    offsets = _spread(plain, full["input_ids"][0].tolist(), written.index(sign), len(written) - len(text))
    return _encoded(full, offsets, tuple(place.nonzero()[:, 0].tolist()))


def _encoded(full: Any, offsets: tuple[tuple[int, int], ...], place: tuple[int, ...]) -> Encoded:
    extra = {name: value for name, value in full.items() if name not in ("input_ids", "attention_mask")}
    return Encoded(full["input_ids"][0].tolist(), offsets, inputs=extra, picture=place)


def image_id(processor: Any) -> int | None:
    """Id of the tokens that a picture's vectors replace, which Gemma writes otherwise than it is spelled; None where pictures
    and texts are read apart, or no text at all."""
    own, sign = (getattr(processor, name, None) for name in ("image_token_id", "image_token"))
    if own is not None:
        return int(own)
    return None if sign is None else int(processor.tokenizer.convert_tokens_to_ids(sign))


def _spread(plain: Any, ids: list[int], at: int, shift: int) -> tuple[tuple[int, int], ...]:
    """Offsets in the author's text of the ids that a processor made, which has written the picture out.

    Tokens of the picture lie at (0, 0), which no role can hold. Where the processor changed more than the picture's
    place, none of them can be placed.

    Args:
        at: character at which the picture stands in the text as it was written for the processor.
        shift: characters that were put before the author's text.
    """
    places = [(start - shift, stop - shift) for start, stop in plain["offset_mapping"]]
    before = sum(stop + shift <= at for _, stop in places)
    after = len(places) - before - 1
    same = ids[:before] == plain["input_ids"][:before] and ids[len(ids) - after :] == plain["input_ids"][before + 1 :]
    if not same:
        return ((0, 0),) * len(ids)
    return (*places[:before], *[(0, 0)] * (len(ids) - before - after), *places[before + 1 :])


def with_pictures(batch: Batch, encoded: Sequence[Encoded]) -> Batch:
    """A padded batch with the inputs that its prompts' pictures make.

    Raises:
        InterpError: E303 some prompts have a picture and some have none.
    """
    names = {name for one in encoded for name in one.inputs}
    bare = sum(not one.inputs for one in encoded)
    if not names:
        return batch
    if bare:
        what = f"{bare} of {len(encoded)} prompts have no picture"
        raise InterpError("E303", what, fix="give every prompt a picture, or none of them")
    width = batch.inputs["input_ids"].shape[1] if "input_ids" in batch.inputs else 0
    extra, counts = {}, {}
    for name in sorted(names):
        rows = [_widened(one.inputs[name], len(one.ids), width) for one in encoded]
        extra[name] = torch.cat(rows)
        if any(len(row) != 1 for row in rows):
            counts[name] = tuple(map(len, rows))
    spans = {**batch.spans, ROLE: tuple(one.picture for one in encoded)} if encoded[0].picture else batch.spans
    return replace(batch, inputs={**batch.inputs, **extra}, spans=spans, counts=counts)


def _widened(value: Tensor, length: int, width: int) -> Tensor:
    """An input with one number a token, padded like the ids; others as they are."""
    if length and value.ndim == 2 and tuple(value.shape) == (1, length):
        return torch.nn.functional.pad(value, (0, width - length))
    return value
