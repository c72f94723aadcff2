"""What a sink is for: a task with the sink removed, emptied, shared out, and with heads moved to it; beside controls."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING

from torch import Tensor

from interp.ablation.asking import prompt_records
from interp.circuits.question import Question
from interp.circuits.results import RunInfo, environment
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress, sweep
from interp.hooks.names import HeadSpec, parse_head, parse_heads
from interp.hooks.probe import canary
from interp.sinks.asking import ask_metric
from interp.sinks.effects import PURPOSE, SinkEffects
from interp.sinks.places import places_of
from interp.sinks.settings import Settings
from interp.sinks.survey import survey
from interp.sinks.trials import Trials, sink_heads
from interp.sinks.watch import check
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


POINTS = ("attn_scores", "pattern", "v")
FIRED = "once a forward, at every forward"


def purpose(
    model: HookedModel,
    task: Task,
    *,
    heads: HeadSpec | None = None,
    metric: str | Metric | None = None,
    share: float = 0.6,
    n_controls: int = 10,
    settings: Settings | None = None,
    truncate: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> SinkEffects:
    """What the sink of some heads is for.

    Edits of keys are compared with the same edit of other keys, edits of heads with the same edit of as many other heads
    of the same layers.

    Args:
        heads: None takes those that give the prompts' sinks more than `eps` of their attention on average.
        metric: a name in `interp.hooks.metrics`; None is the task's own.
        share: of the sink's attention that 'attention shared out' takes from it.
        n_controls: random keys, or sets of heads, for each edit.
        settings: thresholds of the sinks.

    Raises:
        InterpError: E205 no head rests on a sink; E303 to E313 for the prompts; E402, E407 metric not defined on this
            model; E403 attention that can't be read or edited; E404 edits that do not land.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    given = settings or Settings()
    layers = tuple(i for i, n in enumerate(model.heads[""]) if n)
    check(model, layers)
    asked, measure = ask_metric(model, task, metric, truncate=truncate)
    question = Question.of(asked.pairs, measure)
    places = places_of(asked.pairs, model.tokenizer, {})
    seen = survey(model, question.batch, places, asked.pairs.tokens, given, layers)
    chosen = sink_heads(seen, given) if heads is None else tuple(h.label for h in parse_heads(heads, model.heads))
    proof = [row for point in POINTS for row in canary(model, point, tuple(map(parse_head, chosen)), question.batch)]
    trials = Trials.of(model, question, seen, chosen, share, n_controls, given.seed)
    clean = question.clean(model, 0, question.batch.size, given.batch_size)

    def read(output: Tensor, start: int, stop: int) -> Tensor:
        return question.measure(output, start, stop, clean[start:stop])

    variants = [trial.edit for trial in trials.all]
    values = sweep(
        model, trials.batch, variants, question.read_at, read, batch_size=given.batch_size, progress=progress
    )
    baseline = read(clean, 0, question.batch.size).double()
    return SinkEffects(
        run=RunInfo(
            model=model.describe(),
            task=asked.record,
            method={
                "kind": SinkEffects.kind, "question": PURPOSE, "heads": list(chosen), "share": share,
                "n_controls": n_controls, "eps": given.eps, "says": [[one.name, one.says] for one in trials.edits],
            },
            seeds={"task": asked.seed, "evidence": given.seed},
            versions=environment(),
            certificate=model.certificate.to_dict(),
            canary={"point": ", ".join(POINTS), "rows": [row.to_dict() for row in proof], "fired": FIRED},
            warnings=tuple(dict.fromkeys((*asked.notes, *asked.pairs.warnings, *trials.notes))),
            command=command,
            started=started,
            seconds=round(time.monotonic() - clock, 3),
        ),
        labels_=tuple(trial.label for trial in trials.all),
        prompts=prompt_records(model, asked.pairs),
        baseline=baseline.numpy(),
        values=values.numpy(),
        controls=tuple(trial.controls for trial in trials.all),
        drops=asked.drops,
    )  # fmt: skip
