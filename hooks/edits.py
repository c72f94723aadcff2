"""Edits of one tensor: which cells of an activation change, and to what. The building blocks of `interventions`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError, suggest

Cells = int | Sequence[int]
"""A position, or several, of every prompt."""

Positions = None | str | Cells
"""Where an edit acts: None everywhere, 'end' the last real token, a role of the task, or positions of every prompt.

While a model writes a text, 'end' is each newest token: that of the prompt, and every one that is fed in after it.
"""

New = Callable[[Tensor, HookContext], Tensor]


def freeze_positions(positions: str | Cells) -> str | tuple[int, ...]:
    """Positions as a hashable value."""
    if isinstance(positions, str):
        return positions
    return (positions,) if isinstance(positions, int) else tuple(positions)


def positions_mask(
    batch: Batch, positions: Positions, context: HookContext, size: int, shown: int, start: int | None = None
) -> Bool[Tensor, "batch pos"] | None:
    """True where an edit acts, among the `shown` tokens from `start` (by default, that of the tensor); None for everywhere.

    Raises:
        InterpError: E313 unknown role or position outside the prompts.
    """
    if positions is None:
        return None
    length = context.length or shown
    chosen = torch.zeros(size, length, dtype=torch.bool)
    if isinstance(positions, str):
        for row, span in enumerate(_named(batch, positions, context)):
            chosen[row, list(span)] = True
    else:
        chosen[:, _inside(positions, length, context)] = True
    start = context.start if start is None else start
    return chosen[:, start : start + shown]


def key_mask(batch: Batch, keys: str | Cells, context: HookContext, cells: Tensor) -> Bool[Tensor, "batch 1 1 key_pos"]:
    """True at these keys of [batch head query_pos key_pos]. Raises E313 for an unknown role or a key outside the prompts."""
    chosen = positions_mask(batch, keys, context, cells.shape[0], cells.shape[-1], context.key_start)
    assert chosen is not None
    return chosen[:, None, None, :].to(cells.device)


def _inside(positions: Cells, length: int, context: HookContext) -> list[int]:
    wanted = [positions] if isinstance(positions, int) else list(positions)
    outside = [position for position in wanted if not 0 <= position < length]
    if outside:
        raise InterpError(
            "E313",
            f"position {outside[0]} is outside prompts of {length} tokens",
            where=context.name,
            fix="positions count from 0, padding included",
        )
    return wanted


def _named(batch: Batch, name: str, context: HookContext) -> Sequence[tuple[int, ...]]:
    """Positions of a role in each prompt; roles and ends are those of the text, which is read by the main tower."""
    if context.point.tower or batch.mask is None:
        raise InterpError(
            "E313",
            f"{name!r} is a position in a text, and there is none here",
            where=context.name,
            fix="use numbers, or None for everywhere",
        )
    if name == "end":
        return [tuple(range(end - batch.written, end + 1)) for end in batch.end.tolist()]
    if name not in batch.spans:
        raise InterpError("E313", f"no position is called {name!r}", fix=suggest(name, ("end", *batch.spans)))
    return batch.spans[name]


def replace_heads(batch: Batch, heads: list[int], positions: Positions, new: New) -> HookFn:
    """Hook on [batch pos head d_head]: the chosen heads at the chosen positions become `new`, the rest stays."""

    def hook(x: Tensor, context: HookContext) -> Tensor:
        value = new(x, context).to(x.dtype).expand_as(x)
        where = torch.zeros(x.shape[2], dtype=torch.bool, device=x.device)
        where[heads] = True
        chosen = where[None, None, :, None]
        rows = positions_mask(batch, positions, context, x.shape[0], x.shape[1])
        if rows is not None:
            chosen = chosen & rows.to(x.device)[:, :, None, None]
        return torch.where(chosen, value, x)

    return hook


def replace_rows(batch: Batch, heads: list[int], queries: Positions, new: New) -> HookFn:
    """Hook on [batch head query_pos key_pos]: the chosen heads' rows at the chosen queries become `new`."""

    def hook(x: Tensor, context: HookContext) -> Tensor:
        where = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        where[heads] = True
        chosen = where[None, :, None, None]
        rows = positions_mask(batch, queries, context, x.shape[0], x.shape[2])
        if rows is not None:
            chosen = chosen & rows.to(x.device)[:, None, :, None]
        return torch.where(chosen, new(x, context).to(x.dtype), x)

    return hook


def visible(pattern: Tensor, context: HookContext) -> Tensor:
    """Which keys each query may see, as numbers [batch head query_pos key_pos]."""
    if context.allowed is None:
        return torch.ones_like(pattern)
    return context.allowed.to(pattern.dtype).expand_as(pattern)


def uniform_pattern(pattern: Tensor, context: HookContext) -> Tensor:
    """Equal attention to every key the query may see."""
    keys = visible(pattern, context)
    return keys / keys.sum(-1, keepdim=True).clamp(min=1)


def identity_pattern(pattern: Tensor, context: HookContext) -> Tensor:
    """Every query attends to itself alone."""
    n_queries, n_keys = pattern.shape[-2:]
    own = torch.arange(n_queries, device=pattern.device)[:, None] + context.start - context.key_start
    keys = torch.arange(n_keys, device=pattern.device)
    return (own == keys).to(pattern.dtype).expand_as(pattern)


def first_key_pattern(pattern: Tensor, context: HookContext) -> Tensor:
    """Every query attends to the first key it may see (the usual sink)."""
    first = visible(pattern, context).argmax(-1, keepdim=True)
    return torch.zeros_like(pattern).scatter_(-1, first, 1.0)


def shared_out(
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    takes: Bool[Tensor, "#batch #head #query_pos key_pos"],
    gives: Bool[Tensor, "#batch #head #query_pos key_pos"],
    share: float,
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """A share of the attention on some keys, given to others in proportion to what they have; row sums stay.

    A row without any attention on keys that get it is left as it is.
    """
    taken = pattern * takes * share
    weights = pattern * gives
    total = weights.sum(-1, keepdim=True)
    parts = weights / total.clamp(min=torch.finfo(pattern.dtype).tiny)
    return torch.where(total > 0, pattern - taken + parts * taken.sum(-1, keepdim=True), pattern)


def replace_stream(batch: Batch, positions: Positions, new: New) -> HookFn:
    """Hook on [batch pos d_model]."""

    def hook(x: Tensor, context: HookContext) -> Tensor:
        rows = positions_mask(batch, positions, context, x.shape[0], x.shape[1])
        value = new(x, context).to(x.dtype)
        if rows is None:
            return value.clone()  # some models add to this tensor in place, which would change the reference values
        return torch.where(rows.to(x.device)[:, :, None], value, x)

    return hook


def never_blind(hook: HookFn, batch: Batch) -> HookFn:
    """Refuse a knockout that leaves a real query without any key."""

    def checked(scores: Tensor, context: HookContext) -> Tensor | None:
        new = hook(scores, context)
        assert new is not None
        floor = torch.finfo(scores.dtype).min / 2
        blind = (new <= floor).all(-1) & (scores > floor).any(-1)
        if batch.mask is not None and context.point.tower == "":
            real = batch.mask[:, context.start : context.start + blind.shape[-1]]
            blind = blind & real[:, None, :].to(blind.device)
        if bool(blind.any()):
            query = int(blind.any(0).any(0).float().argmax()) + context.start
            raise InterpError(
                "E205",
                f"the knockout leaves query {query} without any key",
                where=context.name,
                fix="leave one key, choose other queries, or use Ablate(operator='zero')",
            )
        return new

    return checked
