"""The same text at several lengths: prompts joined one after the other, and cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.hooks.batch import Batch
from interp.hooks.examples import Example
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError

LONG_PROMPTS = 8
"""Prompts of one length at most."""

FACTORS = (2, 8)
"""Lengths that are looked at by default, in lengths of the median prompt."""


def default_lengths(batch: Batch, limit: int | None) -> tuple[int, ...]:
    """Two and eight times the median length, as far as the model has positions for it."""
    median = int(batch.lengths.median())
    wanted = [factor * median if limit is None else min(factor * median, limit) for factor in FACTORS]
    return tuple(length for length in dict.fromkeys(wanted) if length > median)


def check_lengths(lengths: Sequence[int], limit: int | None) -> None:
    """Raise E309 for a length that the model has no positions for, E205 for one that is none."""
    for length in lengths:
        if length < 2:
            raise InterpError("E205", f"a length of {length} tokens", fix="2 or more")
        if limit is not None and length > limit:
            raise InterpError("E309", f"a length of {length} tokens, the model has {limit} positions")


def joined(batch: Batch, tokenizer: Any, length: int) -> Pairs:
    """Prompts of one length: each prompt followed by the next ones, special tokens at both ends as they were.

    What a role of the task is has no place in such a text; special tokens and the first token keep theirs.
    """
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    assert batch.mask is not None
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids.cpu(), batch.mask.cpu(), strict=True)]
    split = [_ends(row, special) for row in rows]
    made = []
    for start in range(min(len(rows), LONG_PROMPTS)):
        head, _, tail = split[start]
        room, body, number = length - len(head) - len(tail), list[int](), start
        while len(body) < room:
            body += split[number % len(split)][1]
            number += 1
        made.append(Example(f"joined-{start}", (*head, *body[: max(room, 0)], *tail)[:length]))
    return tokenise(tokenizer, made)


def _ends(row: list[int], special: set[int]) -> tuple[list[int], list[int], list[int]]:
    """Special tokens at the start, what lies between, special tokens at the end."""
    start = next((at for at, index in enumerate(row) if index not in special), len(row))
    stop = next((at for at in range(len(row), start, -1) if row[at - 1] not in special), start)
    if start == stop:  # a prompt of special tokens alone
        return row[:1], row[1:] or row, []
    return row[:start], row[start:stop], row[stop:]
