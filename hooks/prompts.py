"""From what a user types to token ids: text, chat messages, ids or images, with nothing read in silence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp.hooks.batch import Batch, pad
from interp.kernels.errors import InterpError

Ids = list[int]
Messages = Sequence[Mapping[str, Any]]
Prompts = str | Tensor | Batch | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Encoded:
    """One prompt as ids.

    Attributes:
        ids: token ids, special tokens included.
        offsets: (start, end) character of each token in the text; (0, 0) for tokens the tokenizer added; empty for ids.
        warnings: how the text was read where that may surprise.
        inputs: what the model reads beside the ids, one prompt's worth.
        picture: positions of the tokens that stand for a picture.
    """

    ids: Ids
    offsets: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    picture: tuple[int, ...] = ()


def encode_text(tokenizer: Any, text: str) -> Encoded:
    """Token ids of a text. Special tokens written in the text are text, except the mask token, which asks the question.

    Raises:
        InterpError: E304 empty prompt.
    """
    if not text.strip():
        raise InterpError(
            "E304", "empty prompt", fix="a tokenizer may still add special tokens to it, but there is nothing to read"
        )
    mask = tokenizer.mask_token
    found = sorted(token for token in tokenizer.all_special_tokens if token in text and token != mask)
    if found and mask and mask in text:
        raise InterpError(
            "E303",
            f"a prompt with {mask!r} cannot also spell {found[0]!r}",
            fix="remove the other special tokens, or pass token ids",
        )
    out = tokenizer(text, split_special_tokens=bool(found), return_offsets_mapping=tokenizer.is_fast)
    warnings = [f"special token {token!r} inside a prompt was read as plain text" for token in found]
    ids = list(out["input_ids"])
    return Encoded(
        ids, tuple(map(tuple, out.get("offset_mapping", ()))), (*warnings, *first_token_warnings(tokenizer, ids))
    )


def encode_ids(tokenizer: Any, ids: Sequence[int]) -> Encoded:
    """Ids as given; says so where the tokenizer would have put another token first."""
    ids = [int(index) for index in ids]
    if not ids:
        raise InterpError("E304", "empty prompt")
    return Encoded(ids, (), () if tokenizer is None else first_token_warnings(tokenizer, ids))


FIRST: WeakKeyDictionary[Any, tuple[int | None, bool]] = WeakKeyDictionary()
"""The token that may stand first, and whether the tokenizer puts it there."""


def first_token_warnings(tokenizer: Any, ids: Ids) -> tuple[str, ...]:
    """Whether the token that the tokenizer puts first (BOS, CLS) is missing, or a BOS token stands there twice."""
    if tokenizer not in FIRST:
        own, bare = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (True, False))
        FIRST[tokenizer] = (own[0], True) if own[:1] != bare[:1] else (tokenizer.bos_token_id, False)
    first, puts_first = FIRST[tokenizer]
    if puts_first and ids[0] != first:
        return (f"token ids do not start with {tokenizer.decode([first])!r}, which the tokenizer puts first",)
    if first is not None and ids[:2] == [first, first]:
        return (f"prompts start with {tokenizer.decode([first])!r} twice",)
    return ()


def encode_messages(tokenizer: Any, messages: Messages) -> Encoded:
    """Chat messages through the model's own template, with the turn of the assistant opened.

    The template writes special tokens as text, so those inside a message cannot be told apart from its own: a warning
    says so.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InterpError(
            "E303",
            "chat messages, but this tokenizer has no chat template",
            fix="pass text, or set tokenizer.chat_template",
        )
    out = tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True, return_dict=True)
    contents = " ".join(str(message.get("content")) for message in messages)
    found = sorted(token for token in tokenizer.all_special_tokens if token in contents)
    warnings = tuple(f"special token {token!r} inside a chat message was read as a special token" for token in found)
    return Encoded(list(out["input_ids"]), (), warnings)


def is_messages(item: Any) -> bool:
    return (
        isinstance(item, Sequence)
        and not isinstance(item, str)
        and len(item) > 0
        and isinstance(item[0], Mapping)
        and "role" in item[0]
    )


def as_list(prompts: Prompts) -> list[Any]:
    """One prompt or many as a list of prompts."""
    if isinstance(prompts, str) or is_messages(prompts):
        return [prompts]
    if isinstance(prompts, Tensor):
        return prompts.tolist() if prompts.ndim == 2 else [prompts.tolist()]
    items = list(prompts)  # type: ignore[arg-type]
    return [items] if items and all(isinstance(item, int) for item in items) else items


def encode(tokenizer: Any, item: Any) -> Encoded:
    """One prompt of any kind. Raises E201 where text meets a model without tokenizer, E303 for an unknown kind."""
    if isinstance(item, str) or is_messages(item):
        if tokenizer is None:
            raise InterpError(
                "E201",
                "this model was opened without a tokenizer",
                fix="pass tokenizer= when opening it, or give token ids",
            )
        return encode_text(tokenizer, item) if isinstance(item, str) else encode_messages(tokenizer, item)
    if isinstance(item, Tensor):
        item = item.tolist()
    if isinstance(item, Sequence) and all(isinstance(index, int) for index in item):
        return encode_ids(tokenizer, item)
    raise InterpError(
        "E303",
        f"a prompt of type {type(item).__name__}",
        fix="prompts are text, token ids, chat messages, or a mapping of model inputs",
    )


def make_batch(
    tokenizer: Any, prompts: Prompts, *, side: str = "right", limit: int | None = None, truncate: bool = False
) -> Batch:
    """Prompts of one or several kinds as one padded batch.

    Args:
        tokenizer: None where prompts are ids.
        prompts: text, ids, chat messages, or a list of them; a mapping of model inputs or a Batch is passed through.
        side: padding side, 'right' or 'left'; both give the same numbers.
        limit: the model's number of positions.
        truncate: cut prompts that are longer than `limit` at their end and count what was cut; else they are refused.

    Raises:
        InterpError: E304 empty, E309 too long, E201 no tokenizer, E303 unknown kind, E205 unknown padding side.
    """
    if isinstance(prompts, Batch):
        return prompts
    if isinstance(prompts, Mapping) and "role" not in prompts:
        return from_inputs(prompts)
    if side not in ("left", "right"):
        raise InterpError("E205", f"padding side {side!r}", fix="'right' or 'left'")
    items = as_list(prompts)
    if not items:
        raise InterpError("E311", "no prompt")
    encoded = [encode(tokenizer, item) for item in items]
    rows, cut = [], []
    for index, one in enumerate(encoded):
        over = max(0, len(one.ids) - limit) if limit else 0
        if over and not truncate:
            raise InterpError(
                "E309",
                f"prompt has {len(one.ids)} tokens, the model has {limit} positions",
                where=f"prompt {index}",
                fix="shorten it, or allow cutting with truncate=True (--truncate)",
            )
        rows.append(one.ids[: len(one.ids) - over])
        cut.append(over)
    batch = pad(rows, pad_id(tokenizer), side)
    warnings = tuple(dict.fromkeys(warning for one in encoded for warning in one.warnings))
    if any(cut):
        warnings += (f"{sum(map(bool, cut))} of {len(rows)} prompts were cut to {limit} tokens",)
    spelled = any(isinstance(item, str) or is_messages(item) for item in items)
    return replace(
        batch, truncated=tuple(cut), warnings=warnings, tokenizer=tokenizer_digest(tokenizer) if spelled else ""
    )


def from_inputs(inputs: Mapping[str, Any]) -> Batch:
    """Inputs as a processor returns them, used as they are."""
    mask = inputs.get("attention_mask")
    if mask is None and "input_ids" in inputs:
        mask = torch.ones_like(inputs["input_ids"])
    return Batch(dict(inputs), None if mask is None else mask.bool())


DIGESTS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the vocabulary: two tokenizers with one digest give the same ids a meaning."""
    if tokenizer not in DIGESTS:
        entries = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        DIGESTS[tokenizer] = hashlib.sha256(repr(entries).encode()).hexdigest()
    return DIGESTS[tokenizer]


def pad_id(tokenizer: Any) -> int:
    """Any id will do, since padding is masked; the tokenizer's own is used where it has one."""
    if tokenizer is None:
        return 0
    return next((index for index in (tokenizer.pad_token_id, tokenizer.eos_token_id) if index is not None), 0)
