"""`interp.swap`: which heads need full attention, and what the others can do with."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.ablation.asking import prompt_records, task_record
from interp.circuits.results import RunInfo, environment
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress
from interp.hooks.names import HeadLike, parse_heads
from interp.swapping.answers import Answers
from interp.swapping.classes import Nothing
from interp.swapping.proof import prove
from interp.swapping.result import SwapResult
from interp.swapping.settings import Settings
from interp.swapping.study import Given, Study
from interp.sweeps.job import MEMORY
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def swap(
    model: HookedModel,
    task: Task,
    *,
    variants: Given | None = None,
    heads: str | HeadLike | Iterable[HeadLike] = "all",
    loss: float = 0.02,
    loss_of: str = "accuracy",
    sink_tokens: int = 4,
    recent: int | None = None,
    roles: Sequence[str] | None = None,
    taken: str = "mean",
    restricted: str = "sink+recent",
    metric: str | Metric | None = None,
    n_controls: int = 10,
    n_matched: int = 4,
    n_choose: int | None = None,
    batch_size: int = 32,
    memory: int = MEMORY,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> SwapResult:
    """Which heads need full attention, and the cheapest mask class for each of the others.

    Every head runs under every class by itself. Then whole configurations are searched on the prompts that choose (half of
    them rank heads, the other half checks what that led to), and verified on the others, beside matched random ones: (a) as few heads as can be in full, all others restricted; (b) each
    head under whatever makes the whole cheapest. The cost of a class is the mean number of keys that a query reads.

    Args:
        variants: mask classes: 'nothing' (the head taken away), 'sink', 'window' (as many keys as sink+recent),
            'sink+recent', 'document' and 'document+sink' (segments of the prompt), names of operators or operators of
            `interp.kernels.variants`; or a mapping that names them. None takes all of the first six that the task has
            roles for. Full attention is always among them.
        heads: 'all', labels, or `L3H*`: heads that may be restricted; the others stay as they are.
        loss: what a configuration may lose, from 0 to 1.
        loss_of: 'accuracy' (the answer has the largest logit), or 'metric', in parts of its clean mean.
        sink_tokens: first tokens of a prompt that sink classes see.
        recent: nearest tokens that sink+recent sees; None takes an eighth of the median length.
        roles: segments of the document classes; None takes all of the task's.
        taken: what stands in for a head that is taken away: 'mean' (over prompts that choose) or 'zero'.
        restricted: the class of all heads that do not need full attention, for (a).
        metric: a name in `interp.hooks.metrics`; None is the task's own. It ranks heads in the search.
        n_controls: matched random configurations for each answer.
        n_matched: heads of the same layer that each head is compared with, under the same class.
        n_choose: prompts that choose; None takes half of them.
        batch_size: prompts in one forward.
        memory: MiB that a run of the engine may hold.
        seed: of the split, the random configurations, the bootstrap and the permutation tests.
        truncate: cut prompts that are too long instead of refusing them.
        first_token: use the first token of answers that have several.
        command: what a reader can type to repeat the run.
        progress: called with (single swaps of a batch done, all of them).

    Raises:
        InterpError: E201 unknown names; E202, E203 heads; E205 settings that do not fit together; E303 to E313 for the
            prompts; E402, E407 metric not defined on this model; E403 a model whose attention cannot be swapped; E404
            swaps do not land.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    settings = Settings(loss, loss_of, restricted, n_controls, n_matched, n_choose, batch_size, memory, seed)
    sizes = {
        "sink_tokens": sink_tokens,
        "recent": recent,
        "roles": None if roles is None else tuple(roles),
        "taken": taken,
    }
    asked = parse_heads(heads, model.heads)
    study = Study.make(
        model, task, settings, asked, variants, sizes, metric, truncate=truncate, first_token=first_token
    )
    proof = prove(model, asked, study.pairs.clean)
    near = study.closeness()
    singles = study.singles(progress)
    answers = Answers.of(study, singles, near.keys.mean(2))
    info = RunInfo(
        model=model.describe(),
        task=task_record(task, study.found, study.pairs, study.metric),
        method=_method(study, answers),
        seeds={"task": task.seed, "evidence": seed},
        versions=environment(),
        certificate=model.certificate.to_dict(),
        canary={"point": "operator", "rows": [row.to_dict() for row in proof], "fired": "once a forward, at every forward"},
        warnings=tuple(dict.fromkeys((*study.found.notes, *study.pairs.warnings, *study.controls.notes, *answers.notes))),
        command=command,
        started=started,
        seconds=round(time.monotonic() - clock, 3),
    )  # fmt: skip
    return SwapResult(
        run=info,
        heads=study.heads,
        asked=study.joint.heads,
        classes=tuple(one.filled(None) if isinstance(one, Nothing) else one for one in study.classes),
        prompts=prompt_records(model, study.pairs),
        chooses=study.chooses,
        baseline=singles.baseline,
        baseline_correct=singles.baseline_correct,
        values=singles.values,
        correct=singles.correct,
        **{name: _rows(getattr(near, name)) for name in ("recall", "output_error", "variation", "keys")},
        full_keys=near.keys[:, -1],
        controls=study.controls.labels,
        needed=answers.needed,
        cheapest=answers.cheapest,
        drops=(*study.found.drops, *study.pairs.drops),
        mean_z={} if study.mean_z is None else {k: z.cpu().numpy() for k, z in study.mean_z.values.items()},
    )


def _rows(table: Float[np.ndarray, "head class prompt"]) -> Float[np.ndarray, "label prompt"]:
    """Without full attention, one row a head and class."""
    rows: np.ndarray = table[:, :-1].reshape(-1, table.shape[2])
    return rows


def _method(study: Study, answers: Answers) -> dict[str, Any]:
    return {
        "kind": SwapResult.kind,
        **{name: value for name, value in asdict(study.settings).items() if name != "seed"},
        "sizes": study.sizes.to_dict(),
        "classes": [one.to_dict() for one in study.classes],
        "metric_scale": answers.scale,
        "alone": answers.alone,
    }
