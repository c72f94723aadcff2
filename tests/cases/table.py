"""A sweep whose work costs nothing: it looks its numbers up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.circuits.results import RunInfo
from interp.circuits.runfolder import PLAN
from interp.kernels.errors import InterpError
from interp.sweeps.executors.inline import Inline
from interp.sweeps.lock import locked
from interp.sweeps.plan import Plan
from interp.sweeps.run import resumable, run
from interp.sweeps.store import SweepFolder
from interp.sweeps.units import Unit, cut
from interp.sweeps.verify import verify
from interp.sweeps.work import Values

LABELS, PROMPTS = ("L0H0", "L0H1", "L1H0"), tuple("abcdefg")

TABLE = np.random.default_rng(1).normal(size=(3, 7))

UNITS = cut(7, 2, [0, 0, 1])

RUN = RunInfo(model={"name": "m"}, task={"name": "t"}, method={"kind": "k"})


class Table:
    """Work that looks its values up; `broken` units raise."""

    size = "a look"

    def __init__(self, broken: dict[int, Exception] | None = None) -> None:
        self.broken, self.asked = broken or {}, list[Unit]()

    def halve(self) -> bool:
        return False

    def restore(self) -> None: ...

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Values]]:
        for unit in units:
            self.asked.append(unit)
            if error := self.broken.get(UNITS.index(unit)):
                raise error
            yield unit, TABLE[unit.first : unit.last, unit.start : unit.stop].copy()


def plan(n_shards: int = 4, **config: Any) -> Plan:
    return Plan.make({"what": "test", **config}, UNITS, n_shards, LABELS, PROMPTS)


def finish(folder: SweepFolder, values: Values) -> None:
    writer = folder.writer()
    writer.write_rows("rows.parquet", pd.DataFrame({"value": values.ravel()}))
    writer.finish("test", RUN)


def go(path: Path, work: Table | None = None, *, n_shards: int = 4, overwrite: bool = False) -> None:
    """Start a run, or go on with the one that is there, to its end."""
    with resumable(path), locked(path):
        if (path / PLAN).is_file() and not overwrite:
            folder = SweepFolder.open(path)
        else:
            folder = SweepFolder.create(path, plan(n_shards), overwrite=overwrite)
        folder.write_job(b"job")
        finish(folder, run(folder, Inline(work or Table()))[0])


def rows(path: Path) -> bytes:
    assert verify(path).is_whole, verify(path)
    return (path / "rows.parquet").read_bytes()


def caught(call: Callable[[], Any]) -> InterpError:
    with pytest.raises(InterpError) as raised:
        call()
    return raised.value
