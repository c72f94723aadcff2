"""Prompts as one model reads them: made by its tokenizer or its processor, and checked against what it has embeddings for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interp.hooks.batch import Batch
from interp.hooks.pictures import ROLE, image_id
from interp.hooks.prompts import Prompts, from_inputs, make_batch, tokenizer_digest
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def read(model: HookedModel, prompts: Prompts | None, images: Any, *, padding_side: str, truncate: bool) -> Batch:
    """See `HookedModel.batch`."""
    if images is not None:
        return known_tokens(model, with_images(model, prompts, images))
    if prompts is None:
        raise InterpError("E311", "no prompt")
    if (
        isinstance(prompts, Batch)
        and prompts.tokenizer
        and model.tokenizer is not None
        and prompts.tokenizer != tokenizer_digest(model.tokenizer)
    ):
        raise InterpError(
            "E312",
            f"these token ids were made by another tokenizer than that of {model.name}",
            fix="pass the text, and each model reads it with its own",
        )
    batch = make_batch(model.tokenizer, prompts, side=padding_side, limit=model.adapter.n_positions, truncate=truncate)
    return known_tokens(model, batch if isinstance(prompts, (Batch, Mapping)) else placed(model, batch))


def placed(model: HookedModel, batch: Batch) -> Batch:
    """The batch as the model is told positions, where its padding asks for that (E205)."""
    if "position_ids" not in batch.inputs or model.adapter.position_ids == "argument":
        return batch
    if model.adapter.position_ids == "none":
        raise InterpError(
            "E205",
            f"{model.name} cannot be told positions, so left padding would shift them",
            fix="padding_side='right'",
        )
    return replace(batch, inputs={name: value for name, value in batch.inputs.items() if name != "position_ids"})


def known_tokens(model: HookedModel, batch: Batch) -> Batch:
    """The batch, checked: every token has an embedding. Padding is never read, so its id may be any that has one."""
    ids, limit = batch.inputs.get("input_ids"), model.adapter.n_tokens
    if ids is None or limit is None or int(ids.max()) < limit:
        return batch
    unknown = ids >= limit
    found = unknown if batch.mask is None else unknown & batch.mask
    if bool(found.any()):
        row, position = found.nonzero()[0].tolist()
        raise InterpError(
            "E312",
            f"token id {int(ids[row, position])}, but {model.name} has embeddings for {limit} tokens",
            where=f"prompt {row}, token {position}",
            fix="use the tokenizer that the model was trained with, or resize the model's embeddings",
        )
    return replace(batch, inputs={**batch.inputs, "input_ids": ids.masked_fill(unknown, 0)})


def with_images(model: HookedModel, prompts: Any, images: Any) -> Batch:
    """Prompts with one image each, as the model's processor makes them of both; the role 'image' is where they stand."""
    if model.processor is None:
        raise InterpError(
            "E201", f"{model.name} was opened without a processor for images", fix="pass processor= when opening it"
        )
    given = (
        {"images": images}
        if prompts is None
        else {"images": images, "text": [prompts] if isinstance(prompts, str) else list(prompts), "padding": True}
    )
    batch = from_inputs(dict(model.processor(**given, return_tensors="pt")))
    own = image_id(model.processor)
    if own is None or "input_ids" not in batch.inputs:
        return batch
    places = tuple(tuple(row.nonzero()[:, 0].tolist()) for row in batch.input_ids == own)
    return replace(batch, spans={**batch.spans, ROLE: places}) if all(places) else batch
