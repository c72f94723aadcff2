"""Writing: one forward reads the prompts, and every later one the newest token, with interventions in force in all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.generation.edits import placed
from interp.hooks.generation.proof import prove
from interp.hooks.generation.result import NOTHING, Generation, Step, joined
from interp.hooks.generation.sampling import Sampling, choose
from interp.hooks.generation.texts import Texts, texts_of
from interp.hooks.interventions.base import Hook, Intervention
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

WHOLE = "whole texts: {}"
SINGLY = "one by one, since this model cannot be told positions"


@dataclass(frozen=True)
class Settings:
    """How a text is continued; see `generate`."""

    max_new_tokens: int
    sample: Sampling | None
    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    keep_logits: bool


@torch.no_grad()
def generate(
    model: HookedModel,
    batch: Batch,
    edits: Sequence[Intervention],
    *,
    max_new_tokens: int,
    sample: Sampling | None = None,
    stop: Collection[int | str] | None = None,
    keep_logits: bool = False,
    cached: bool = True,
) -> Generation:
    """What a model writes after prompts; see `HookedModel.generate`."""
    if "input_ids" not in batch.inputs:
        raise InterpError("E407", f"{model.name} was given no text to continue")
    proof = prove(model)
    _check_room(model, batch, max_new_tokens)
    why = proof.why_not if cached else "asked for"
    settings = Settings(max_new_tokens, sample, *_stops(model, stop), keep_logits)
    write = partial(_write, model, settings=settings, cached=not why)
    method = WHOLE.format(why) if why else "cached"
    if model.adapter.position_ids == "argument" or batch.mask is None or bool(batch.mask.all()):
        return replace(write(batch, edits), method=method)
    rows = []
    for row in range(batch.size):
        alone, cut = _unpadded(batch.rows(row, row + 1))
        rows.append(write(alone, [edit.rows(row, row + 1) for edit in edits], first=row, cut=cut))
    return replace(joined(rows, batch), method=f"{method}; {SINGLY}")


def _check_room(model: HookedModel, batch: Batch, max_new_tokens: int) -> None:
    """Raise unless something is to be written and the model has positions for it; the last token needs none."""
    if max_new_tokens < 1:
        raise InterpError("E205", f"{max_new_tokens} new tokens", fix="max_new_tokens=1 or more")
    longest = batch.input_ids.shape[1] if batch.mask is None else int(batch.lengths.max())
    limit = model.adapter.n_positions
    if limit is not None and longest + max_new_tokens - 1 > limit:
        raise InterpError(
            "E309",
            f"{max_new_tokens} tokens after a prompt of {longest}, and the model has {limit} positions",
            fix=f"max_new_tokens={limit - longest + 1} at most" if longest <= limit else "shorten the prompt",
        )


def _unpadded(batch: Batch) -> tuple[Batch, int]:
    """One prompt without its padding, and how many columns were cut before it."""
    assert batch.mask is not None
    width, start, stop = batch.mask.shape[1], int(batch.first[0]), int(batch.end[0]) + 1
    inputs = {
        name: value[:, start:stop] if isinstance(value, Tensor) and value.shape == (1, width) else value
        for name, value in batch.inputs.items()
    }
    spans = {role: tuple(tuple(place - start for place in row) for row in rows) for role, rows in batch.spans.items()}
    return replace(batch, inputs=inputs, mask=batch.mask[:, start:stop], spans=spans), start


def _stops(model: HookedModel, stop: Collection[int | str] | None) -> tuple[frozenset[int], tuple[str, ...]]:
    """Tokens and strings that end a text; by default what ends one for the model and its tokenizer."""
    if stop is None:
        own = getattr(model.tokenizer, "eos_token_id", None)
        return frozenset(model.adapter.end_tokens) | (frozenset() if own is None else {own}), ()
    texts = tuple(item for item in stop if isinstance(item, str))
    if texts and model.tokenizer is None:
        raise InterpError("E201", "a string to stop at, but no tokenizer", fix="name the tokens that end a text")
    return frozenset(item for item in stop if not isinstance(item, str)), texts


@dataclass
class Written:
    """What was written so far.

    Attributes:
        going: rows whose text has not ended.
    """

    going: Bool[Tensor, " batch"]
    tokens: list[Int[Tensor, " batch"]] = field(default_factory=list)
    logits: list[Float[Tensor, "batch d_vocab"]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def _write(
    model: HookedModel,
    batch: Batch,
    edits: Sequence[Intervention],
    *,
    settings: Settings,
    cached: bool,
    first: int = 0,
    cut: int = 0,
) -> Generation:
    """The texts of one batch.

    Args:
        first: number of its first prompt among all.
        cut: columns that were left out before it.
    """
    texts = texts_of(batch, model.adapter.position_ids == "argument", cached=cached, cut=cut)
    acting = placed(model, edits, texts, texts.width + settings.max_new_tokens - 1)
    cache = model.adapter.new_cache() if cached else None
    written = Written(torch.ones(batch.size, dtype=torch.bool, device=batch.input_ids.device))
    draws = settings.sample.generators(first, batch.size) if settings.sample else []
    start = 0
    for _ in range(settings.max_new_tokens):
        logits, step = _step(model, texts, acting, start, cache)
        written.steps.append(replace(step, rows=(first, first + batch.size)))
        _add(model, written, logits, choose(logits, settings.sample, draws), settings)
        if not bool(written.going.any()):
            break
        start = texts.width if cached else 0
        texts.written.append(written.tokens[-1].clamp(min=0))
    return _result(model, batch, edits, written, settings)


def _step(
    model: HookedModel, texts: Texts, edits: Sequence[Intervention], start: int, cache: Any
) -> tuple[Float[Tensor, "batch d_vocab"], Step]:
    """One forward: the logits after the newest token, and what acted."""
    batch = texts.batch(start)
    kind: Literal["prefill", "decode", "whole"] = "whole" if cache is None else "decode" if start else "prefill"
    forward = model.adapter.forward if cache is None else partial(model.adapter.cached_forward, cache=cache)
    by_edit = [_reached(model, edit.hooks(model, batch), start) for edit in edits]
    hooks = [hook for found in by_edit for hook in found]
    output, fired = model.run_edited(batch, hooks, partial(forward, texts.step_inputs(batch)))
    counts = tuple(sum(fired[name] for name in dict.fromkeys(name for name, _ in found)) for found in by_edit)
    return output[:, -1], Step(kind, start, texts.width, (0, batch.size), counts)


def _reached(model: HookedModel, hooks: Sequence[Hook], start: int) -> list[Hook]:
    """The hooks that this forward must run: pictures are seen once, when the prompts are read."""
    return [hook for hook in hooks if not start or not model.adapter.available[hook[0]].tower]


def _add(
    model: HookedModel,
    written: Written,
    logits: Float[Tensor, "batch d_vocab"],
    token: Int[Tensor, " batch"],
    settings: Settings,
) -> None:
    """One more token in every row that goes on."""
    written.tokens.append(torch.where(written.going, token, NOTHING))
    if settings.keep_logits:
        written.logits.append(torch.where(written.going[:, None], logits, float("nan")))
    ends = torch.tensor(sorted(settings.stop_ids), device=token.device, dtype=token.dtype)
    written.going = written.going & ~torch.isin(token, ends)
    if settings.stop_texts:
        found = [any(stop in text for stop in settings.stop_texts) for text in _texts(model, written.tokens)]
        written.going = written.going & ~torch.tensor(found, device=token.device)


def _texts(model: HookedModel, tokens: Sequence[Int[Tensor, " batch"]]) -> tuple[str, ...]:
    """What was written, as text; ids where there is no tokenizer."""
    rows = [[token for token in row if token != NOTHING] for row in torch.stack(list(tokens), 1).tolist()]
    if model.tokenizer is None:
        return tuple(" ".join(map(str, row)) for row in rows)
    return tuple(model.tokenizer.decode(row, skip_special_tokens=True) for row in rows)


def _result(
    model: HookedModel, batch: Batch, edits: Sequence[Intervention], written: Written, settings: Settings
) -> Generation:
    return Generation(
        prompts=batch,
        tokens=torch.stack(written.tokens, 1),
        texts=_texts(model, written.tokens),
        ended=tuple("length" if going else "stop" for going in written.going.tolist()),
        logits=torch.stack(written.logits, 1) if settings.keep_logits else None,
        steps=tuple(written.steps),
        edits=tuple(edit.to_dict() for edit in edits),
        method="",
    )
