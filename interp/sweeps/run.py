"""The run of a sweep: pending shards are computed and stored one by one, and put together at the end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.circuits.files import not_written
from interp.circuits.runfolder import MANIFEST, REPORT
from interp.hooks.naive import Progress
from interp.kernels.errors import InterpError
from interp.sweeps.executors.base import Executor
from interp.sweeps.merge import merge
from interp.sweeps.store import SweepFolder
from interp.sweeps.work import Values

HOPELESS = 3
"""Shards that fail before any has values, after which the others are not begun."""


@dataclass(frozen=True)
class Actual:
    """What a sweep took, over all processes that worked on it.

    Attributes:
        resumed: shards that an earlier process had stored.
        edits: batches under a variant, those of shards that were begun again included.
        attempts: times that a shard was begun.
        halvings: times that memory ran out and less was held at once.
        peak_bytes: largest memory of a worker.
        cpu_seconds: of all workers together, without their start.
        seconds: wall time of the process that finished it.
        disk_bytes: of what is in the folder before the final tables are written.
    """

    resumed: int
    edits: int
    attempts: int
    halvings: int
    peak_bytes: int
    cpu_seconds: float
    seconds: float
    disk_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(folder: SweepFolder, executor: Executor, progress: Progress | None = None) -> tuple[Values, Actual]:
    """Compute what is not stored yet, and put everything together. The folder's lock must be held.

    Args:
        progress: called with (edits done, edits in all).

    Raises:
        InterpError: E502 some shards have no values; E602 nothing can be written any more; E701 what is stored does not
            fit together. All of it can be resumed.
        KeyboardInterrupt: on SIGINT and SIGTERM; the current shard is dropped.
    """
    started = time.monotonic()
    pending = folder.reopen()
    resumed = len(folder.plan.shards) - len(pending)
    with stopped_by_signals():
        try:
            _fill(folder, executor, progress)
        finally:
            executor.close()
        check_complete(folder)
        parts = [folder.read(shard) for shard in folder.plan.shards]
        values = merge(folder.plan, parts)
    about = [part.about for part in parts]
    return values, Actual(
        resumed=resumed,
        edits=sum(part.shard.edits * part.about["attempts"] for part in parts),
        attempts=sum(one["attempts"] for one in about),
        halvings=sum(one["halvings"] for one in about),
        peak_bytes=max(one["peak_bytes"] for one in about),
        cpu_seconds=round(sum(one["seconds"] for one in about), 3),
        seconds=round(time.monotonic() - started, 3),
        disk_bytes=disk_bytes(folder.path),
    )


def _fill(folder: SweepFolder, executor: Executor, progress: Progress | None) -> None:
    """Compute pending shards and store what becomes of them."""
    pending = folder.pending()
    total = sum(shard.edits for shard in folder.plan.shards)
    done = total - sum(shard.edits for shard in pending)
    stored = failed = 0
    for outcome in executor.map(pending):
        folder.record(outcome)
        stored, failed = stored + (outcome.failure is None), failed + (outcome.failure is not None)
        done += outcome.shard.edits
        if progress is not None:
            progress(done, total)
        if failed >= HOPELESS and not stored:
            return


def check_complete(folder: SweepFolder) -> None:
    """Raise E502, with the first reason, unless every shard has values."""
    missing, failures = folder.pending(), folder.failures()
    if not missing:
        return
    first = next(iter(failures.values()), {"code": "", "what": "not begun", "where": ""})
    code = f"INTERP-{first['code']}: " if first["code"] else ""
    raise InterpError(
        "E502",
        f"{len(missing)} of {len(folder.plan.shards)} shards have no values; {len(failures)} failed, the first with "
        f"{code}{first['what']}",
        where=f"{first['where']}; {folder.path}".removeprefix("; "),
        fix=f"mend the cause, then: {resume_line(folder.path)}",
    )


def resume_line(path: Path) -> str:
    """What to type to go on with a run."""
    import shlex

    return shlex.join(["interp", "resume", str(path)])


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """Errors of the disk say how to go on."""
    try:
        yield
    except (InterpError, OSError) as error:
        found = not_written(path, error) if isinstance(error, OSError) else error
        if found.code != "E602":
            raise
        fix = f"free space there, then: {resume_line(path)}"
        raise InterpError(found.code, found.what, where=found.where, fix=fix) from error


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does: with KeyboardInterrupt, so that everything is put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def disk_bytes(path: Path) -> int:
    """Size of all files of a run, without its report and manifest."""
    files = [entry for entry in path.rglob("*") if entry.is_file() and entry.name not in (REPORT, MANIFEST)]
    return sum(entry.stat().st_size for entry in files)
