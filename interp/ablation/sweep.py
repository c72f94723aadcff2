"""An ablation as a sweep: in memory, or in a folder that survives whatever happens."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from interp.ablation.request import Request
from interp.ablation.result import AblationResult
from interp.ablation.study import Study
from interp.circuits.runfolder import RunFolder
from interp.hooks.naive import Progress
from interp.sweeps.compute import run_units
from interp.sweeps.estimate import Estimate, estimate, probe, shards_for
from interp.sweeps.executors.base import Execution
from interp.sweeps.lock import locked
from interp.sweeps.opening import Opening
from interp.sweeps.plan import Plan, check_same
from interp.sweeps.run import Actual, resumable, run
from interp.sweeps.store import SweepFolder
from interp.sweeps.work import Values


def in_memory(study: Study, progress: Progress | None) -> tuple[Values, tuple[str, ...]]:
    """The whole table, kept nowhere else, and notes on how it was computed."""
    values = np.empty((len(study.labels), len(study.pairs)))
    total, done = sum(unit.shape[0] for unit in study.units), 0
    halvings = 0
    for unit in study.units:
        (table,), more = run_units(study.work, [unit])
        halvings += more
        values[unit.first : unit.last, unit.start : unit.stop] = table
        done += unit.shape[0]
        if progress is not None:
            progress(done, total)
    return values, halving_notes(halvings)


def planned(study: Study, execution: Execution) -> tuple[Plan, Estimate]:
    """The plan of a sweep and what it will cost; one unit is run for that, and nothing is written."""
    found = probe(study.work, study.units)
    n_shards = execution.shards or shards_for(found, study.units, execution.workers)
    plan = Plan.make(study.config(execution.threads), study.units, n_shards, study.labels, study.prompt_ids)
    job_bytes = len(study.job.to_bytes())
    return plan, estimate(found, study.units, n_shards=n_shards, workers=execution.workers, job_bytes=job_bytes)


def on_disk(
    make: Callable[[], Study],
    path: Path,
    execution: Execution,
    *,
    overwrite: bool,
    resume: bool,
    progress: Progress | None,
) -> AblationResult:
    """Plan, compute and store; or go on with what is stored.

    Args:
        make: prepares the study.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    if not resume:
        RunFolder.check(path, overwrite=overwrite)
    with one_speed(execution.threads), resumable(path):
        study = make()
        if execution.executor != "inline":
            Opening.required(study.model, f"a worker of executor {execution.executor!r}")
        plan, expected = (None, None) if resume else planned(study, execution)
        with locked(path):
            if plan is None or expected is None:
                folder = SweepFolder.open(path)
                check_same(folder.plan, study.config(execution.threads), str(path))
            else:
                request = Request.of(study, execution)
                folder = SweepFolder.create(
                    path,
                    plan,
                    request=None if request is None else request.to_dict(),
                    expected=expected.to_dict(),
                    overwrite=overwrite,
                )
            folder.write_job(study.job.to_bytes())
            values, actual = run(folder, execution.open(study.model, study.job, study.work), progress)
            result = study.result(
                values,
                started=started,
                seconds=round(time.monotonic() - clock, 3),
                sweep=record(folder, execution, actual),
                notes=notes(folder, actual),
            )
            result.write(folder.writer())
    return result


def record(folder: SweepFolder, execution: Execution, actual: Actual) -> dict[str, object]:
    """What the result keeps of its sweep: the plan against what happened."""
    return {
        "executor": execution.executor,
        "workers": execution.workers,
        "threads": execution.threads,
        "shards": len(folder.plan.shards),
        "plan": folder.plan.digest,
        "expected": dict(folder.expected),
        "actual": actual.to_dict(),
    }


def notes(folder: SweepFolder, actual: Actual) -> tuple[str, ...]:
    """What a reader must know about the way the numbers were computed."""
    again = actual.attempts - len(folder.plan.shards)
    found = [f"{again} shards were begun again because their worker died."] if again else []
    return (*found, *halving_notes(actual.halvings))


def halving_notes(halvings: int) -> tuple[str, ...]:
    """That memory ran out, if it did."""
    if not halvings:
        return ()
    smaller = "smaller batches were used; the last digits may differ from those of a run with enough memory"
    return (f"Memory ran out {halvings} times and {smaller}.",)


@contextmanager
def one_speed(threads: int) -> Iterator[None]:
    """torch with this many threads: with other numbers of them, last digits may differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
