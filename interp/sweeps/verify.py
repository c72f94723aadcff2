"""Is a run folder whole? Every file against its digest, every shard against the plan, the table against the shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interp.circuits.runfolder import MANIFEST, PARTS, PLAN, TEMPORARY, RunFolder
from interp.kernels.errors import InterpError
from interp.sweeps import entries
from interp.sweeps.ledger import Head, begun_as
from interp.sweeps.merge import merge
from interp.sweeps.store import SweepFolder

ROWS = "rows.parquet"


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be."""

    file: str
    what: str


@dataclass(frozen=True)
class Check:
    """What was found in a run folder.

    Attributes:
        finished: there is a manifest, so this claims to be a whole run.
        shards: number planned; 0 for a run that was not swept.
        missing: keys of shards without values.
        failed: keys of those of them that were tried.
        kept: answers of a run that keeps a ledger, while it is unfinished.
        problems: files that are damaged, missing or strange.
    """

    path: Path
    finished: bool
    shards: int
    missing: tuple[str, ...]
    failed: tuple[str, ...]
    problems: tuple[Problem, ...]
    kept: int = 0

    @property
    def is_whole(self) -> bool:
        """Finished and without a problem."""
        return self.finished and not self.problems and not self.missing


def verify(path: str | Path) -> Check:
    """Check everything that can be checked without a model.

    Raises:
        InterpError: E204 this is no run folder.
    """
    path = Path(path)
    finished = (path / MANIFEST).is_file()
    if not finished and not (path / PLAN).is_file():
        RunFolder.open(path)  # says what is wrong with it
    problems = list(_damaged_files(path)) if finished else []
    if not (path / PLAN).is_file():
        return Check(path, finished, 0, (), (), tuple(problems))
    if begun_as(path):
        return _with_ledger(path, finished, problems)
    try:
        sweep = SweepFolder.open(path)
    except InterpError as error:
        return Check(path, finished, 0, (), (), (*problems, *_new(problems, problem(PLAN, error))))
    for shard, wrong in sweep.damaged():
        problems += _new(problems, problem(sweep.part_name(shard), wrong))
    problems += [Problem(name, "is not part of the run") for name in _strangers(sweep)]
    missing = tuple(shard.key for shard in sweep.pending())
    if finished and not missing and not problems:
        problems += _wrong_table(sweep)
    return Check(path, finished, len(sweep.plan.shards), missing, tuple(sweep.failures()), tuple(problems))


def _with_ledger(path: Path, finished: bool, problems: list[Problem]) -> Check:
    """A run that keeps a ledger; once it is finished, what is left of that is of no account."""
    if finished:
        return Check(path, finished, 0, (), (), tuple(problems))
    try:
        Head.read(path)
    except InterpError as error:
        return Check(path, finished, 0, (), (), (problem(PLAN, error),))
    found = tuple(problem(name, error) for name, error in entries.problems(path))
    return Check(path, finished, 0, (), (), found, kept=len(entries.keys(path)) - len(found))


def _damaged_files(path: Path) -> Iterator[Problem]:
    """Files of a finished run whose digest does not match."""
    try:
        folder = RunFolder.unchecked(path)
    except InterpError as error:
        yield problem(MANIFEST, error)
        return
    for name in folder.manifest["files"]:
        try:
            folder.read_bytes(name)
        except InterpError as error:
            yield problem(name, error)


def problem(file: str, error: InterpError) -> Problem:
    """An error about a file, which names it only once."""
    return Problem(file, error.what.removeprefix(file).removeprefix(Path(file).name).strip())


def _new(known: list[Problem], found: Problem) -> list[Problem]:
    """The problem, unless that file is known to have one."""
    return [] if any(one.file == found.file for one in known) else [found]


def _strangers(sweep: SweepFolder) -> list[str]:
    """Files among the shards that the plan does not know."""
    folder = sweep.path / PARTS
    planned = {sweep.part_name(shard) for shard in sweep.plan.shards}
    found = folder.iterdir() if folder.is_dir() else iter(())
    names = sorted(f"{PARTS}/{entry.name}" for entry in found if not entry.match(TEMPORARY))
    return [name for name in names if name not in planned]


def _wrong_table(sweep: SweepFolder) -> list[Problem]:
    """The final table, where its values are not those of the shards."""
    values = merge(sweep.plan, (sweep.read(shard) for shard in sweep.plan.shards))
    table = RunFolder.unchecked(sweep.path).read_rows(ROWS)["value"].to_numpy()
    expected = np.where(np.isfinite(values), values, np.nan).ravel()
    return (
        []
        if np.array_equal(table, expected, equal_nan=True)
        else [Problem(ROWS, "does not hold the values of the shards")]
    )
