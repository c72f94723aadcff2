"""Tokenised clean/corrupt pairs, checked, as a model runs on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.hooks.batch import Batch, pad
from interp.hooks.examples import Drop, Example, Option, Prompt, Span
from interp.hooks.pictures import encode_picture, with_pictures
from interp.hooks.prompts import Encoded, encode, pad_id, tokenizer_digest
from interp.kernels.errors import InterpError, InterpErrors


@dataclass(frozen=True, eq=False)
class Pairs:
    """Tokenised examples, all padded to one width so that no number depends on how they are batched.

    Attributes:
        examples: the kept examples, row by row.
        clean, corrupt: their prompts; `corrupt` is None unless every example has one. Roles are in `spans`.
        answer, distractor: token ids; None unless every example has one. Where an example has several, the axis `option`
            is as long as the most of them, and -1 fills the rest.
        read_at: position at which the answer is read: the last real token, or the mask token; -1 for models that read
            pictures alone, whose output is one for a prompt.
        tokens: tokens of each clean prompt as text.
        drops: examples left out.
        warnings: how prompts were read where that may surprise.
    """

    examples: tuple[Example, ...]
    clean: Batch
    corrupt: Batch | None
    answer: Int[Tensor, batch * option] | None
    distractor: Int[Tensor, batch * option] | None
    read_at: Int[Tensor, " batch"]
    tokens: tuple[tuple[str, ...], ...]
    drops: tuple[Drop, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class _Row:
    """One example as ids."""

    example: Example
    clean: Encoded
    corrupt: Encoded | None
    answer: tuple[int, ...] | None
    distractor: tuple[int, ...] | None
    read_at: int
    spans: Mapping[str, tuple[int, ...]]
    corrupt_spans: Mapping[str, tuple[int, ...]]


def tokenise(
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    processor: Any = None,
    needs: frozenset[str] = frozenset(),
    at_mask: bool = False,
    limit: int | None = None,
    truncate: bool = False,
    first_token: bool = False,
    strict: bool = True,
) -> Pairs:
    """Token ids of examples, checked: equal lengths, single-token answers, positions that exist.

    Args:
        processor: what reads the pictures of examples that have one.
        needs: of 'answer', 'distractor' and 'corrupt', what every example must have.
        at_mask: the answer is read at the mask token (masked language models) instead of the last token.
        limit: the model's number of positions.
        truncate: cut longer prompts at their end and count them; else they are refused.
        first_token: take the first token of an answer that has several.
        strict: raise all problems together; else drop the examples that have one, with the reason.

    Raises:
        InterpErrors: E303, E304, E305, E306, E307, E309, E313, one for each bad example.
        InterpError: E311 when no example is left.
    """
    rows, drops, problems = [], [], []
    for example in examples:
        try:
            rows.append(_row(tokenizer, processor, example, needs, at_mask, limit, truncate, first_token))
        except InterpError as problem:
            problem.where = problem.where or example.where or example.id
            problems.append(problem)
            drops.append(Drop(example.id, problem.code, problem.what, example.where))
    if problems and strict:
        raise InterpErrors(problems)
    if not rows:
        raise InterpError(
            "E311",
            "no prompt is left",
            fix="; ".join(sorted({drop.reason for drop in drops})) or "the file or task has none",
        )
    clean = _padded(tokenizer, [row.clean for row in rows], [row.spans for row in rows])
    text_of = cache(partial(piece, tokenizer))
    corrupted = [row.corrupt for row in rows if row.corrupt is not None]
    has_corrupt = len(corrupted) == len(rows)
    corrupt = _padded(tokenizer, corrupted, [row.corrupt_spans for row in rows]) if has_corrupt else None
    return Pairs(
        tuple(row.example for row in rows),
        clean,
        corrupt,
        _column([row.answer for row in rows]),
        _column([row.distractor for row in rows]),
        torch.tensor([row.read_at for row in rows]),
        tuple(tuple(map(text_of, row.clean.ids)) for row in rows),
        tuple(drops),
        tuple(
            dict.fromkeys(
                warning for row in rows for side in (row.clean, row.corrupt) if side for warning in side.warnings
            )
        )
        + clean.warnings,
    )


def piece(tokenizer: Any, index: int) -> str:
    """One token as text."""
    return str(index) if tokenizer is None else tokenizer.decode([index])


def _column(values: list[tuple[int, ...] | None]) -> Int[Tensor, batch * option] | None:
    given = [value for value in values if value is not None]
    if len(given) < len(values):
        return None
    most = max(map(len, given))
    rows = torch.tensor([[*value, *[-1] * (most - len(value))] for value in given])
    return rows[:, 0] if most == 1 else rows


def _row(
    tokenizer: Any,
    processor: Any,
    example: Example,
    needs: frozenset[str],
    at_mask: bool,
    limit: int | None,
    truncate: bool,
    first_token: bool,
) -> _Row:
    for field_name in sorted(needs):
        if getattr(example, field_name) is None:
            raise InterpError("E303", f"{example.id}: no {field_name}", fix="this operator or metric needs it")
    read = partial(_encoded, tokenizer, processor)
    clean = _fitting(read(example.clean, example.image), limit, truncate)
    corrupt = None
    if example.corrupt is not None:
        picture = example.image if example.corrupt_image is None else example.corrupt_image
        corrupt = _fitting(read(example.corrupt, picture), limit, truncate)
    if corrupt is not None and len(clean.ids) != len(corrupt.ids):
        raise InterpError(
            "E305",
            _misaligned(tokenizer, clean.ids, corrupt.ids),
            fix="change words so that both prompts have the same number of tokens",
        )
    answer = token_ids(tokenizer, example.answer, example, first_token)
    distractor = token_ids(tokenizer, example.distractor, example, first_token)
    if both := set(answer or ()) & set(distractor or ()):
        raise InterpError("E307", f"answer and distractor are both {piece(tokenizer, min(both))!r}")
    read_at = _read_at(tokenizer, clean.ids) if at_mask else len(clean.ids) - 1
    spans = {role: span_tokens(clean, span, role) for role, span in example.spans.items()}
    corrupt_spans = (
        {}
        if corrupt is None
        else {role: span_tokens(corrupt, span, role) for role, span in example.corrupt_spans.items()}
    )
    return _Row(example, clean, corrupt, answer, distractor, read_at, spans, corrupt_spans)


def _encoded(tokenizer: Any, processor: Any, prompt: Prompt, picture: Any) -> Encoded:
    """One side of an example (E303, token ids beside a picture)."""
    if picture is None:
        return encode(tokenizer, _as_prompt(prompt))
    if not isinstance(prompt, str):
        raise InterpError(
            "E303", "token ids beside a picture", fix="write the prompt as text; its processor reads both"
        )
    return encode_picture(processor, prompt, picture)


def _as_prompt(prompt: Prompt) -> str | list[int]:
    return prompt if isinstance(prompt, str) else list(prompt)


def _fitting(encoded: Encoded, limit: int | None, truncate: bool) -> Encoded:
    over = max(0, len(encoded.ids) - limit) if limit else 0
    if not over:
        return encoded
    if not truncate or encoded.inputs:  # a picture cannot be cut
        raise InterpError(
            "E309",
            f"prompt has {len(encoded.ids)} tokens, the model has {limit} positions",
            fix="shorten it, or allow cutting with --truncate",
        )
    return Encoded(
        encoded.ids[:limit], encoded.offsets[:limit], (*encoded.warnings, f"prompts were cut to {limit} tokens")
    )


def _misaligned(tokenizer: Any, clean: list[int], corrupt: list[int]) -> str:
    """Both tokenisations, and where they part."""
    left, right = ([piece(tokenizer, index) for index in ids] for ids in (clean, corrupt))
    first = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return f"clean has {len(left)} tokens, corrupt {len(right)}; they first differ at token {first}\n    clean:   {'|'.join(left)}\n    corrupt: {'|'.join(right)}"


def token_ids(
    tokenizer: Any, options: Option | tuple[Option, ...] | None, example: Example, first_token: bool = False
) -> tuple[int, ...] | None:
    """The single token of each answer. Raises as `token_id` does."""
    if options is None:
        return None
    several = options if isinstance(options, tuple) else (options,)
    return tuple(token_id(tokenizer, option, example, first_token) for option in several)


def token_id(tokenizer: Any, word: Option, example: Example, first_token: bool = False) -> int:
    """The single token of an answer, alone or as it continues the prompt.

    Raises:
        InterpError: E306 several tokens, with the pieces, or none that the tokenizer knows.
    """
    if isinstance(word, int):
        return word
    if tokenizer is None:
        raise InterpError(
            "E201",
            f"answer {word!r} is text, but the model was opened without a tokenizer",
            fix="give the answer as a token id",
        )
    alone = tokenizer(word, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in alone:
        raise InterpError(
            "E306", f"answer {word!r} is not in the vocabulary", fix="choose a word that the tokenizer knows"
        )
    if len(alone) == 1:
        return alone[0]
    if isinstance(example.clean, str):
        before, after = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (example.clean, example.clean + word)
        )
        if len(after) == len(before) + 1 and after[:-1] == before:
            return after[-1]
    if first_token and alone:
        return alone[0]
    pieces = " + ".join(repr(piece(tokenizer, index)) for index in alone)
    spaced = (
        ""
        if word.startswith(" ") or len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) != 1
        else f"write {' ' + word!r} with its leading space, or "
    )
    raise InterpError(
        "E306",
        f"answer {word!r} is {len(alone)} tokens: {pieces}",
        fix=f"{spaced}choose a single-token word, or take the first token with --first-token",
    )


def _read_at(tokenizer: Any, ids: list[int]) -> int:
    """Position of the mask token, which asks the question of a masked language model."""
    places = [index for index, token in enumerate(ids) if token == tokenizer.mask_token_id]
    if len(places) != 1:
        raise InterpError(
            "E303",
            f"a masked language model answers at {tokenizer.mask_token}; the prompt has {len(places)}",
            fix=f"write {tokenizer.mask_token} once, where the answer belongs",
        )
    return places[0]


def _padded(tokenizer: Any, encoded: Sequence[Encoded], spans: Sequence[Mapping[str, tuple[int, ...]]]) -> Batch:
    if not any(one.ids for one in encoded):
        return with_pictures(Batch({}), encoded)
    batch = pad([one.ids for one in encoded], pad_id(tokenizer))
    roles = [
        role
        for role in dict.fromkeys(role for of_row in spans for role in of_row)
        if all(role in of_row for of_row in spans)
    ]
    found = {role: tuple(of_row[role] for of_row in spans) for role in roles}
    named = replace(batch, spans=found, tokenizer="" if tokenizer is None else tokenizer_digest(tokenizer))
    return with_pictures(named, encoded)


def span_tokens(encoded: Encoded, span: Span, role: str) -> tuple[int, ...]:
    """Tokens that share a character with a span; for ids, the span counts tokens.

    Raises:
        InterpError: E313 no token lies there.
    """
    start, stop = span
    if encoded.offsets:
        found = tuple(index for index, (first, last) in enumerate(encoded.offsets) if first < stop and last > start)
    else:
        found = tuple(range(max(0, start), min(stop, len(encoded.ids))))
    if not found:
        raise InterpError(
            "E313",
            f"role {role!r} at {start} to {stop} holds no token",
            fix="spans are [start, end) character offsets in the prompt",
        )
    return found
