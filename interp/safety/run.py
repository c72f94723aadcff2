"""`interp.safety`: which heads make a model refuse, by every operator, as a group, and on prompts that did not find it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.ablation.asking import prompt_records
from interp.circuits.controls import matched_controls
from interp.circuits.group_result import Limits
from interp.circuits.groups import grow_group
from interp.circuits.results import RunInfo, environment
from interp.heads.masking import answer_norms
from interp.heads.run import described
from interp.hooks.naive import Progress
from interp.hooks.names import HeadId, HeadSpec, parse_heads
from interp.hooks.probe import canary
from interp.kernels.errors import InterpError
from interp.safety.asking import Prompts, both_sides
from interp.safety.result import SafetyReport
from interp.safety.screening import screen
from interp.safety.search import Bargain, best, best_of, prefixes
from interp.safety.settings import Settings
from interp.safety.trials import controls_of, tried
from interp.tasks.base import Task
from interp.tasks.registry import task as task_of

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

STEPS = 3


def safety(
    model: HookedModel,
    task: Task | None = None,
    *,
    held_out: Task | None = None,
    heads: HeadSpec = "all",
    truncate: bool = False,
    command: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> SafetyReport:
    """Safety heads: screening by all operators, a group search, and the evidence on held-out prompts.

    Prompts are harmful, each with a harmless twin as its corrupt prompt; the answer begins a refusal and the distractor
    compliance. One set of prompts screens single heads by every operator and grows a group (Sahara, with a price on what
    harmless prompts lose). Another, with other templates where the task has them, says what the group is worth, beside matched
    random groups; there replies are written and judged three ways.

    Args:
        task: None takes `safety`; of that task the held-out prompts are made as `interp.safety.asking.both_sides` says.
        held_out: a task of its own for the evidence.
        heads: that are screened and may join the group.
        truncate: cut prompts that are too long instead of refusing them.
        command: what a reader can type to repeat the run.
        progress: called with (steps done, 3): screening, search, held-out prompts.
        settings: of `Settings`: operators, operator, max_size, max_kl, price, n_controls, batch_size, seed, ...

    Raises:
        InterpError: E201 unknown operator; E205 numbers that make no sense, too few prompts, or prompts on both sides; E303 to
            E313 for the prompts; E402 a model without a trained output layer; E404 edits that do not land.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    if "operators" in settings:
        settings["operators"] = tuple(settings["operators"])
    asked = Settings(**settings)
    if not model.has_trained_head:
        raise InterpError(
            "E402", f"{model.name} cannot refuse", fix="open a model that was saved with its output layer"
        )
    step = progress or (lambda done, total: None)
    own, other = both_sides(
        model, task or task_of("safety", seed=asked.seed), held_out, truncate=truncate, seed=asked.seed
    )
    chosen = parse_heads(heads, model.heads)
    proof = canary(model, "z", chosen, own.pairs.clean)
    run = RunInfo(
        model=described(model),
        task={**own.record, "held_out": other.record},
        method=_method(asked, chosen),
        seeds={"task": int(own.record.get("seed", 0)), "evidence": asked.seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        canary={"point": "z", "rows": [row.to_dict() for row in proof], "fired": "once a forward, at every forward"},
        command=command,
        started=started,
    )
    every = [HeadId("", layer, head) for layer, n in enumerate(model.heads[""]) for head in range(n)]
    norms = answer_norms(model, own.pairs, every, asked.batch_size)
    screening, baseline = screen(model, own.pairs, chosen, asked)
    step(1, STEPS)
    bargain = Bargain(model, own.pairs, asked)
    limits = Limits(max_size=asked.max_size, min_gain=asked.min_gain, n_controls=asked.n_controls, seed=asked.seed)
    search = grow_group(
        chosen,
        bargain,
        limits=limits,
        norms=dict(zip(every, norms.tolist(), strict=True)),
        name=bargain.name,
        source=run,
    )
    at = asked.operators.index(asked.operator)
    alone = [(head,) for head in chosen]
    single = best(alone, screening["compliance"][at], screening["cost"][at], asked)
    grown = tuple(dict.fromkeys(found for found in (single, *prefixes(search)) if found))
    group = best_of(model, own.pairs, grown, asked)
    step(2, STEPS)
    controls, notes = controls_of(group, every, norms, asked)
    held = tried(model, other.pairs, grown, controls, asked)
    step(3, STEPS)
    return SafetyReport(
        run=replace(run, warnings=_warnings(own, other, notes), seconds=round(time.monotonic() - clock, 3)),
        heads=tuple(head.label for head in chosen),
        operators=asked.operators,
        prompts=prompt_records(model, own.pairs),
        screening={name: values.numpy() for name, values in screening.items()},
        baseline={name: values.numpy() for name, values in baseline.items()},
        controls=_matched(chosen, every, norms, asked),
        search=search,
        group=tuple(head.label for head in group),
        held_out=prompt_records(model, other.pairs),
        trials=held.trials,
        numbers=held.numbers,
        complied=held.complied,
        replies=held.replies,
        drops=(*own.drops, *other.drops),
    )


def _method(asked: Settings, heads: Sequence[HeadId]) -> dict[str, Any]:
    given = {name: value for name, value in asdict(asked).items() if name != "seed"}
    return {
        "kind": SafetyReport.kind,
        **given,
        "operators": list(asked.operators),
        "heads": [head.label for head in heads],
    }


def _matched(
    chosen: Sequence[HeadId], every: Sequence[HeadId], norms: np.ndarray, asked: Settings
) -> tuple[tuple[str, ...], ...]:
    """Matched heads of each head, among those that were screened."""
    at = [list(every).index(head) for head in chosen]
    layers = np.array([head.layer for head in chosen])
    found = matched_controls(norms[at], layers, asked.n_matched)
    return tuple(tuple(chosen[index].label for index in indices) for indices in found.indices)


def _warnings(own: Prompts, other: Prompts, notes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*own.notes, *other.notes, *notes)))
