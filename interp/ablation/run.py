"""Head ablation: replace one head at a time and see, prompt by prompt, what a metric loses."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from interp.ablation.result import AblationResult
from interp.ablation.settings import SHOWN_PROMPTS, Settings
from interp.ablation.study import Study
from interp.ablation.sweep import in_memory, on_disk
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress
from interp.hooks.names import HeadLike, parse_heads
from interp.kernels.errors import InterpError
from interp.sweeps.executors.base import Execution
from interp.sweeps.job import MEMORY
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def ablate(
    model: HookedModel,
    task: Task,
    *,
    heads: str | HeadLike | Iterable[HeadLike] = "all",
    operator: str = "mean",
    metric: str | Metric | None = None,
    positions: None | str | tuple[int, ...] = None,
    n_controls: int = 4,
    batch_size: int = 32,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
    shown_prompts: int = SHOWN_PROMPTS,
    engine: str = "rerun",
    memory: int = MEMORY,
    command: str = "",
    progress: Progress | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    executor: str = "inline",
    workers: int = 1,
    shards: int | None = None,
    address: str | None = None,
    threads: int = 1,
) -> AblationResult:
    """The effect of ablating each head on a task: metric(clean) - metric(ablated), so positive means the head helps.

    Args:
        heads: 'all', labels, or `L3H*`; matched control heads are measured with them.
        operator: a key of `interp.ablation.settings.OPERATORS`.
        metric: a name in `interp.hooks.metrics`; None is the task's own, or cosine where the model has no logits.
        positions: where z is replaced: None everywhere, 'end', a role of the task, or token positions.
        n_controls: matched control heads for each head.
        batch_size: prompts in one forward.
        seed: of the bootstrap and the permutation tests.
        truncate: cut prompts that are too long instead of refusing them.
        first_token: use the first token of answers that have several.
        shown_prompts: prompts whose attention patterns are kept for the report.
        engine: 'rerun', only what can change runs again, or 'forwards', one full forward each: the same numbers.
        memory: MiB that a run of the engine may hold.
        command: what a reader can type to repeat the run.
        progress: called with (edits of a batch done, all of them).
        out: folder of the run, written shard by shard while it goes on; None keeps all in memory.
        overwrite: replace the run that is in `out`.
        resume: go on with the run that is in `out`, which must have been asked the same.
        executor, workers, shards, address, threads: who computes, see `Execution`; for runs with `out`. Equal numbers
            of threads give equal bytes, whoever computes.

    Raises:
        InterpError: E201 unknown name; E204 `out` holds something else; E205 settings that do not fit together; E402,
            E407 metric not defined on this model; E404 edits do not land; E303 to E313 for the prompts; E401 to E403
            for the model; E502 shards without values; E601 to E605 for the machine; E703 resumed with other settings.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    execution = Execution(executor, workers, shards, address, threads)
    if out is None and (execution != Execution() or overwrite or resume):
        raise InterpError("E205", "settings of a stored run, and no folder", fix="name one with out=")
    settings = Settings(
        heads=tuple(head.label for head in parse_heads(heads, model.heads)),
        operator=operator,
        metric=metric.name if isinstance(metric, Metric) else metric,
        positions=positions,
        n_controls=n_controls,
        batch_size=batch_size,
        seed=seed,
        truncate=truncate,
        first_token=first_token,
        shown_prompts=shown_prompts,
        engine=engine,
        memory=memory,
    )
    if out is None:
        study = Study.make(model, task, settings, metric, command)
        values, notes = in_memory(study, progress)
        return study.result(values, started=started, seconds=round(time.monotonic() - clock, 3), notes=notes)
    return on_disk(
        lambda: Study.make(model, task, settings, metric, command),
        Path(out),
        execution,
        overwrite=overwrite,
        resume=resume,
        progress=progress,
    )
