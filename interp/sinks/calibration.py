"""Calibration of sinks (ACT) with heads chosen on some prompts and judged on the others, beside random heads.

Yu et al. 2024, arXiv 2406.15765: the sinks of a head but the first are turned down, and the heads where that helps are
found by trying each alone. What was chosen on some prompts looks good on them whatever it is; so others judge.
"""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.ablation.asking import prompt_records
from interp.circuits.question import Question
from interp.circuits.results import RunInfo, environment
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress, sweep
from interp.hooks.names import HeadSpec, parse_heads
from interp.hooks.swap import Swap
from interp.kernels.errors import InterpError
from interp.kernels.variants.calibration import SinkCalibration
from interp.sinks.asking import ask_metric
from interp.sinks.edits import CALIBRATED
from interp.sinks.effects import CALIBRATION, SinkEffects
from interp.sinks.trials import other_heads
from interp.swapping.found import split
from interp.swapping.joint import picked
from interp.swapping.proof import prove
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def calibrate(
    model: HookedModel,
    task: Task,
    *,
    heads: HeadSpec = "all",
    threshold: float = 0.1,
    beta: float = 0.4,
    metric: str | Metric | None = None,
    n_choose: int | None = None,
    n_controls: int = 10,
    batch_size: int = 32,
    seed: int = 0,
    truncate: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> SinkEffects:
    """What calibrating sinks brings on prompts that did not choose the heads.

    Args:
        heads: heads that may be chosen.
        threshold, beta: of `SinkCalibration`: what makes a column a sink, and what it keeps.
        metric: None is the task's own; a head is chosen where calibrating it alone raises the mean.
        n_choose: prompts that choose; None takes half of them.
        n_controls: random sets of as many heads.
        seed: of the split, the random sets, the bootstrap and the permutation tests.

    Raises:
        InterpError: E205 a split that leaves nothing on one side, a threshold or beta outside 0 to 1; E303 to E313 for
            the prompts; E402, E407 metric not defined on this model; E403, E404 attention that can't be swapped, or is
            no softmax.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    asked, measure = ask_metric(model, task, metric, truncate=truncate)
    question, every = Question.of(asked.pairs, measure), parse_heads(heads, model.heads)
    n = len(asked.pairs)
    half = n // 2 if n_choose is None else n_choose
    if not 0 < half < n:
        raise InterpError("E205", f"{half} of {n} prompts choose", fix="some on both sides")
    proof = prove(model, every, question.batch)
    chooses = split(n, half, seed)
    operator = SinkCalibration(threshold=threshold, beta=beta)
    labels = tuple(head.label for head in every)
    choosing, judging = (picked(question, torch.from_numpy(np.flatnonzero(rows))) for rows in (chooses, ~chooses))
    base, alone = measured(model, choosing, [(label,) for label in labels], operator, batch_size, progress)
    gains = (alone - base).mean(1)
    chosen = tuple(label for label, gain in zip(labels, gains, strict=True) if gain > 0)
    drawn, notes = other_heads(labels, chosen, n_controls, seed) if chosen else ((), ())
    baseline, values = measured(model, judging, [chosen, *drawn], operator, batch_size, progress)
    names = tuple(f"{CALIBRATED}: other heads {index + 1}" for index in range(len(drawn)))
    records = prompt_records(model, asked.pairs)
    says = f"columns above {threshold:g} but the first keep {beta:g}; the rest goes to the other keys"
    return SinkEffects(
        run=RunInfo(
            model=model.describe(),
            task=asked.record,
            method={
                "kind": SinkEffects.kind, "question": CALIBRATION, "heads": list(chosen), "of": len(labels),
                "threshold": threshold, "beta": beta, "n_choose": half, "n_controls": n_controls,
                "says": [[CALIBRATED, says]], "gains": dict(zip(labels, gains.tolist(), strict=True)),
            },
            seeds={"task": asked.seed, "evidence": seed},
            versions=environment(),
            certificate=model.certificate.to_dict(),
            canary={"point": "operator", "rows": [row.to_dict() for row in proof]},
            warnings=tuple(dict.fromkeys((*asked.notes, *asked.pairs.warnings, *notes))),
            command=command,
            started=started,
            seconds=round(time.monotonic() - clock, 3),
        ),
        labels_=(CALIBRATED, *names),
        prompts=tuple(records[index] for index in np.flatnonzero(~chooses)),
        baseline=baseline,
        values=values,
        controls=(names, *((),) * len(names)),
        drops=asked.drops,
    )  # fmt: skip


def measured(
    model: HookedModel,
    question: Question,
    groups: list[tuple[str, ...]],
    operator: SinkCalibration,
    batch_size: int,
    progress: Progress | None,
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "group prompt"]]:
    """The metric of the untouched model, and with each group of heads calibrated; a group of none changes nothing."""
    clean = question.clean(model, 0, question.batch.size, batch_size)

    def read(output: Tensor, start: int, stop: int) -> Tensor:
        return question.measure(output, start, stop, clean[start:stop])

    baseline = read(clean, 0, question.batch.size).double().numpy()
    edits = [Swap(group, operator) for group in groups if group]
    values = sweep(model, question.batch, edits, question.read_at, read, batch_size=batch_size, progress=progress)
    rows = iter(values.numpy())
    return baseline, np.stack([next(rows) if group else baseline for group in groups])
