"""`interp.passport`: every verdict on one head, or on several at once."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.ablation.asking import shown_patterns
from interp.circuits.results import RunInfo, environment
from interp.heads.run import described
from interp.heads.scorer import Scorer
from interp.hooks.naive import Progress
from interp.hooks.names import HeadId, HeadSpec, parse_heads
from interp.kernels.errors import InterpError
from interp.passport.direct import direct_readings
from interp.passport.effects import ASKED, Ablations, Effects
from interp.passport.families import FITTING, asked_scorers
from interp.passport.reading import Reading
from interp.passport.result import Passport
from interp.passport.scoring import Scores, misfit
from interp.passport.settings import Setting, Templates, settings_of
from interp.passport.sink import SinkVerdict, sink_verdict
from interp.pictures.distance import of_pairs
from interp.sinks.places import ALL, FIRST, OTHER, RESTING, WORKING
from interp.sinks.run import sinks
from interp.tasks.base import Task
from interp.tasks.registry import task as make_task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

DEFAULT = "induction"


def passport(
    model: HookedModel,
    head: str | tuple[int, int] | HeadId,
    task: Task | None = None,
    *,
    scorers: str | Sequence[str | Scorer] = FITTING,
    operators: Sequence[str] = ASKED,
    seeds: Sequence[int] = (0, 1, 2),
    templates: Templates | None = None,
    n: int | None = None,
    n_controls: int = 4,
    dormancy: bool = True,
    batch_size: int = 32,
    truncate: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Passport:
    """Every verdict on one head, what contradicts what, and whether it holds under other seeds and templates.

    Scorers that read any prompts read those of the task, the others those of a task of their own. All that read
    attention on the same prompts share one forward a batch, and all operators share one sweep. The first seed is the main
    way of drawing prompts; under the others, and under each template, everything that can change is measured again.

    Args:
        head: its label.
        task: whose prompts ablation, direct attribution and sinks are asked on; None takes repeated random tokens.
        scorers: 'all fitting', 'all' (with the slow ones), or names and records. What does not fit the model or the
            task is listed with the reason.
        operators: of ablation; keys of `interp.ablation.settings.OPERATORS`.
        seeds: of the prompts, the main one first. A file of prompts, where nothing is drawn, is cut into as many parts.
        templates: options of the task, one mapping each (`[{"template": 4}, {"split": "test"}]`); None takes the first
            templates of a task that has numbered ones, or its splits.
        n: prompts of tasks that are not given.
        n_controls: heads of the same layer, of similar output, that its ablation is compared with.
        dormancy: whether heads are taken away to know which rest.
        progress: called with (parts done, all of them).

    Raises:
        InterpError: E202, E203 no such head; E201, E205 unknown names, or settings that do not fit together; E303 to E313
            for the prompts of the task; E401 no attention.
    """
    options: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("model", "head", "task")}
    (found,) = passports(model, [head], task, **options).values()
    return found


def passports(
    model: HookedModel,
    heads: HeadSpec,
    task: Task | None = None,
    *,
    scorers: str | Sequence[str | Scorer] = FITTING,
    operators: Sequence[str] = ASKED,
    seeds: Sequence[int] = (0, 1, 2),
    templates: Templates | None = None,
    n: int | None = None,
    n_controls: int = 4,
    dormancy: bool = True,
    batch_size: int = 32,
    truncate: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Passport]:
    """The passports of several heads of one tower, by label; arguments as of `passport`.

    Scorers score all heads anyway, so that many passports cost little more than one. False discoveries of ablation are
    controlled over all of these heads.

    Raises:
        InterpError: E205 heads of several towers; what `passport` raises.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    chosen = parse_heads(heads, model.heads)
    if len({head.tower for head in chosen}) > 1:
        raise InterpError("E205", "heads of several towers", where="passports", fix="ask for each tower by itself")
    asked, slow = asked_scorers(scorers)
    settings = settings_of(task or make_task(DEFAULT, n=n, seed=seeds[0] if seeds else 0), seeds, templates)
    told = Told(progress, 4 + 2 * len(settings))
    sweeps = Ablations(model, chosen, tuple(operators), n_controls, batch_size, settings[0].seed, truncate)
    with told.part("ablation"):
        effects = _ablated(sweeps, settings, told)
    with told.part("direct"):
        direct, refused = direct_readings(model, chosen, settings, sweeps, told.step)
    with told.part("scores"):
        scored = Scores(model, chosen, n, batch_size, truncate).run(asked, settings)
    with told.part("sinks"):
        verdicts, no_sink = _sinks(model, chosen, effects[0], settings[0].seed, batch_size, dormancy)
    with told.part("pictures"):
        shown = _shown(model, chosen, effects[0])
    unasked = {**slow, **scored.left_out, **_unasked(effects[0].left_out), **refused, **no_sink}
    left_out = dict(sorted(unasked.items()))
    method: dict[str, Any] = {
        "kind": Passport.kind, "scorers": [one.describe() for one in asked],
        "operators": list(operators), "seeds": list(seeds), "settings": [one.name for one in settings],
        "templates": None if templates is None else [dict(one) for one in templates],
        "n_controls": n_controls, "dormancy": dormancy, "batch_size": batch_size,
        "baseline": effects[0].baseline, "can_claim": effects[0].does_task and effects[0].can_claim,
        "seconds": told.seconds,
    }  # fmt: skip
    run = RunInfo(
        model=described(model), task=effects[0].record, method=method,
        seeds={"task": settings[0].task.seed, "evidence": settings[0].seed}, versions=environment(),
        certificate=model.certificate.to_dict(), canary={"rows": [row.to_dict() for row in effects[0].proof]},
        warnings=tuple(dict.fromkeys(effects[0].notes)), command=command, started=started,
        seconds=round(time.monotonic() - clock, 3),
    )  # fmt: skip
    made = {}
    for label in (head.label for head in chosen):
        own = {**method, "head": label, "controls": list(effects[0].controls[label])}
        ablated = [one for each in effects for one in each.readings[label]]
        readings = _ordered(ablated, direct[label], scored.readings[label])
        made[label] = Passport(replace(run, method=own), readings, verdicts.get(label), left_out, **shown[label])
    return made


@dataclass
class Told:
    """How far a passport is, and what each of its parts took.

    Attributes:
        seconds: of each part.
    """

    progress: Progress | None
    total: int
    done: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        clock = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - clock, 3)
        self.step()


def _ablated(sweeps: Ablations, settings: Sequence[Setting], told: Told) -> list[Effects]:
    """One sweep a setting; operators that do not fit the first are not tried again."""
    first = sweeps.run(settings[0], prove=True)
    rest = replace(sweeps, operators=tuple(name for name in sweeps.operators if name not in first.left_out))
    found = [first]
    for setting in settings[1:]:
        found.append(rest.run(setting, prove=False))
        told.step()
    return found


def _sinks(
    model: HookedModel, heads: Sequence[HeadId], effects: Effects, seed: int, batch_size: int, dormancy: bool
) -> tuple[dict[str, SinkVerdict], dict[str, str]]:
    if heads[0].tower:
        return {}, {"sink": "sinks are asked of the main tower"}
    taken = (FIRST, OTHER, ALL, RESTING, WORKING)
    clean = effects.pairs.clean
    spans = {f"{role} of the task" if role in taken else role: rows for role, rows in clean.spans.items()}
    try:
        report = sinks(
            model, replace(clean, spans=spans), layers=sorted({head.layer for head in heads}), lengths=[],
            dormancy=dormancy, batch_size=batch_size, seed=seed,
        )  # fmt: skip
    except InterpError as error:
        return {}, {"sink": misfit(error)}
    return {head.label: sink_verdict(report, head.label) for head in heads}, {}


def _shown(model: HookedModel, heads: tuple[HeadId, ...], effects: Effects) -> dict[str, dict[str, Any]]:
    """Of each head the pattern on the first prompt, and attention by distance."""
    patterns, _ = shown_patterns(model, effects.pairs, heads, 1)
    found: dict[str, dict[str, Any]] = {head.label: {} for head in heads}
    for maps in patterns.values():
        for head, pattern in zip(heads, np.asarray(maps, dtype=np.float64), strict=True):
            found[head.label] |= {"tokens": effects.pairs.tokens[0], "pattern": pattern}
    if not heads[0].tower:
        far = of_pairs(model, effects.pairs, heads)
        back = far.offsets >= 0
        for index, head in enumerate(heads):
            found[head.label] |= {"by_distance": far.mean[index, back], "even": far.even[back]}
    return found


def _unasked(operators: dict[str, str]) -> dict[str, str]:
    return {f"ablation: {name}": why for name, why in operators.items()}


def _ordered(effects: Sequence[Reading], direct: Sequence[Reading], scored: Sequence[Reading]) -> tuple[Reading, ...]:
    """Question by question, in the order in which the main setting answers them."""
    every = [*effects, *direct, *scored]
    place = {question: index for index, question in enumerate(dict.fromkeys(one.question for one in every))}
    return tuple(sorted(every, key=lambda one: place[one.question]))
