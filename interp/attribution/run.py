"""Direct logit attribution on a task: one forward a batch, no edits."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.ablation.asking import choose_metric, prompt_records, task_record, tokenised
from interp.attribution.result import AttributionResult
from interp.circuits.controls import grouped, matched_controls
from interp.circuits.decompose import Decomposer, Decomposition
from interp.circuits.results import RunInfo, environment
from interp.circuits.writes import PATTERN, VALUE, Part
from interp.hooks.naive import Progress, batches
from interp.hooks.names import point_name
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError, suggest
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

SHOWN_PROMPTS = 4


def dla(
    model: HookedModel,
    task: Task,
    *,
    position: str | int = "end",
    n_controls: int = 4,
    batch_size: int = 32,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
    shown_prompts: int = SHOWN_PROMPTS,
    command: str = "",
    progress: Progress | None = None,
) -> AttributionResult:
    """What each part of a model writes directly towards answer minus distractor, prompt by prompt.

    The norms keep the scale they had in the run, so the shares sum to the logit difference (before a soft cap, where
    the model has one). Of several right or wrong answers, the one with the largest logit counts, as in the metric
    `logit_diff`.

    Args:
        position: where the logits are read: 'end' (where the task asks), a role of the task (its last token), or a
            token position.
        n_controls: matched control heads for each head.
        seed: of the bootstrap and the permutation tests.
        truncate: cut prompts that are too long instead of refusing them.
        first_token: use the first token of answers that have several.
        shown_prompts: prompts for which the shares of heads are also split over the keys they looked at.
        command: what a reader can type to repeat the run.
        progress: called with (batches done, all of them); each is one forward.

    Raises:
        InterpError: E402, E407 no trained logits; E403 the logits are no sum over parts on this model, with the reason;
            E313 unknown position; E303 to E312 for the prompts.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    metric = choose_metric(model, "logit_diff", task)
    found = task.examples(model.tokenizer)
    pairs = tokenised(model, task, found.examples, metric, "", truncate=truncate, first_token=first_token)
    read_at = read_positions(pairs, position)
    decomposer = Decomposer.of(model)
    refused = hidden_patterns(model, decomposer)
    whole = collect(decomposer, pairs, read_at, batch_size, 0 if refused else shown_prompts, progress)
    controls, notes = control_labels(whole, n_controls)
    remainder = float(np.abs(whole.logit_diff - whole.values.sum(axis=0)).max())
    warnings = (
        *found.notes,
        *pairs.warnings,
        *([f"Shares are not split over keys: {refused}."] if refused else []),
        *([_cap_note(decomposer.readout.cap)] if decomposer.readout.cap is not None else []),
        *notes,
    )
    run = RunInfo(
        model=model.describe(),
        task=task_record(task, found, pairs, metric),
        method={
            "kind": "attribution",
            "description": "share of each part in the logit difference, norms at the scale of the run",
            "position": position,
            "n_controls": n_controls,
            "batch_size": batch_size,
            "logit_factor": decomposer.readout.factor,
            "logit_cap": decomposer.readout.cap,
            "largest_remainder": remainder,
        },
        seeds={"task": task.seed, "evidence": seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        warnings=tuple(dict.fromkeys(warnings)),
        command=command,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
    )
    return AttributionResult(
        run=run,
        parts=whole.parts,
        prompts=prompt_records(model, pairs),
        logit_diff=whole.logit_diff,
        values=whole.values,
        controls=controls,
        drops=(*found.drops, *pairs.drops),
        sources={pairs.examples[row].id: rows for row, rows in whole.sources.items()},
    )


def read_positions(pairs: Pairs, position: str | int) -> Int[Tensor, " prompt"]:
    """The position of each prompt whose logits are read.

    Raises:
        InterpError: E313 no such role, or a prompt is too short.
    """
    if position == "end":
        return pairs.read_at
    if isinstance(position, str):
        if position not in pairs.clean.spans:
            raise InterpError(
                "E313", f"no position is called {position!r}", fix=suggest(position, ("end", *pairs.clean.spans))
            )
        return torch.tensor([span[-1] for span in pairs.clean.spans[position]])
    shortest = int(pairs.clean.lengths.min())
    if not 0 <= position < shortest:
        raise InterpError(
            "E313",
            f"position {position} is outside a prompt of {shortest} tokens",
            fix="positions count from 0; 'end' is the last token of each prompt",
        )
    return torch.full((len(pairs),), position)


def hidden_patterns(model: HookedModel, decomposer: Decomposer) -> str:
    """Why heads' shares cannot be split over keys on this model; '' where they can."""
    names = [point_name(kind, layer) for layer in decomposer.writers.blocks for kind in (PATTERN, VALUE)]
    return next((model.adapter.refused[name] for name in names if name in model.adapter.refused), "")


@dataclass
class Shares:
    """Decompositions of all batches, joined.

    Attributes:
        values, logit_diff, head_norms: as in `Decomposition`, over all prompts.
        sources: row -> [head key_pos], padding left out, for the first prompts.
    """

    parts: tuple[Part, ...]
    values: Float[np.ndarray, "part prompt"]
    logit_diff: Float[np.ndarray, " prompt"]
    head_norms: Float[np.ndarray, "head prompt"]
    sources: dict[int, Float[np.ndarray, "head key_pos"]] = field(default_factory=dict)


def collect(
    decomposer: Decomposer,
    pairs: Pairs,
    read_at: Int[Tensor, " prompt"],
    batch_size: int,
    shown: int,
    progress: Progress | None = None,
) -> Shares:
    """Decompose every prompt; the shares of heads are split over keys for the first `shown`."""
    assert pairs.answer is not None and pairs.distractor is not None
    spans, done, sources = list(batches(len(pairs), batch_size)), list[Decomposition](), {}
    for start, stop in spans:
        rows = slice(start, stop)
        found = decomposer(
            pairs.clean.rows(start, stop), read_at[rows], pairs.answer[rows], pairs.distractor[rows],
            sources=start < shown,
        )  # fmt: skip
        done.append(found)
        for row in range(start, min(stop, shown)):
            assert found.sources is not None
            sources[row] = found.sources[:, row - start, : len(pairs.tokens[row])].cpu().numpy()
        if progress is not None:
            progress(len(done), len(spans))
    parts = {found.parts for found in done}
    assert len(parts) == 1, "batches of one model have different parts"
    values, logit_diff, head_norms = (
        torch.cat([getattr(found, name) for found in done], dim=-1).cpu().numpy()
        for name in ("values", "logit_diff", "head_norms")
    )
    return Shares(done[0].parts, values, logit_diff, head_norms, sources)


def control_labels(whole: Shares, n: int) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Labels of each part's matched control heads, and notes where they are not what was asked for."""
    heads = [part for part in whole.parts if part.kind == "head"]
    matched = matched_controls(whole.head_norms.mean(axis=1), np.array([part.layer for part in heads]), n)
    of_head = {
        part.label: tuple(heads[index].label for index in indices)
        for part, indices in zip(heads, matched.indices, strict=True)
    }
    notes = grouped((part.label, note) for part, note in zip(heads, matched.notes, strict=True))
    return tuple(of_head.get(part.label, ()) for part in whole.parts), notes


def _cap_note(cap: float | None) -> str:
    return f"Logits are capped softly at {cap:g}; shares sum to the logit difference before the cap."
