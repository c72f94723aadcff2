"""What a sweep will cost, from one unit that is run first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from interp.sweeps.compute import peak_memory, run_units
from interp.sweeps.units import Unit
from interp.sweeps.work import Work

SHARD_SECONDS = 5.0
"""Time a shard takes at most: what a killed process loses, against about 15 ms that it costs to store one."""

SHARDS_SEEN = 20
"""Shards of a short run, of half a second at least, so that one sees it going on."""

SHARDS_MOST = 2000
"""Shards of a long run: all of them are read again when it is resumed."""

SHARDS_PER_WORKER = 4
"""Shards for each worker at least, so that all of them end at about the same time."""

CELL_BYTES = 48
"""A number with its row in a part and in the final table, compressed; measured on parts of 10 to 1000 rows."""

PART_BYTES = 6000
"""What a part takes whatever is in it: schema, column statistics, its line of the manifest and of the plan."""


@dataclass(frozen=True)
class Probe:
    """One unit, measured.

    Attributes:
        seconds: for one number of the table.
        flops: for one number of the table, multiplications and additions counted apart.
        peak_bytes: memory of this process afterwards.
    """

    seconds: float
    flops: float
    peak_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What to expect of a sweep.

    Attributes:
        edits: batches under a variant, which is as many full forwards in a plain loop.
        flops: floating-point operations.
        peak_bytes: memory of one worker.
        disk_bytes: of the finished folder, about.
        seconds: with all workers, without their start.
        cpu_seconds: of all workers together.
    """

    shards: int
    units: int
    edits: int
    flops: float
    peak_bytes: int
    disk_bytes: int
    seconds: float
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(work: Work, units: Sequence[Unit]) -> Probe:
    """Run the largest unit twice: once to warm up and to count operations, once for the time.

    What the work has recorded stays at hand; less memory at once, if it came to that, holds for the probe alone.

    Raises:
        InterpError: what the unit raises; a sweep that cannot work fails here, before anything is written.
    """
    unit = max(units, key=lambda unit: unit.cells)
    with FlopCounterMode(display=False) as counter:
        run_units(work, [unit])
    started = time.perf_counter()
    run_units(work, [unit])
    seconds = time.perf_counter() - started
    work.restore()
    return Probe(seconds / unit.cells, counter.get_total_flops() / unit.cells, peak_memory())


def shards_for(found: Probe, units: Sequence[Unit], workers: int) -> int:
    """Number of shards that lose little when they are lost, enough for all workers."""
    seconds = found.seconds * sum(unit.cells for unit in units)
    by_time = max(min(SHARDS_SEEN, round(2 * seconds)), min(SHARDS_MOST, round(seconds / SHARD_SECONDS)))
    least = SHARDS_PER_WORKER * workers if workers > 1 else 1
    return max(1, min(max(by_time, least), len(units)))


def estimate(found: Probe, units: Sequence[Unit], *, n_shards: int, workers: int, job_bytes: int) -> Estimate:
    """The cost of all units."""
    cells = sum(unit.cells for unit in units)
    seconds = found.seconds * cells
    return Estimate(
        shards=n_shards,
        units=len(units),
        edits=sum(unit.shape[0] for unit in units),
        flops=found.flops * cells,
        peak_bytes=found.peak_bytes,
        disk_bytes=job_bytes + n_shards * PART_BYTES + cells * CELL_BYTES,
        seconds=seconds / min(workers, n_shards),
        cpu_seconds=seconds,
    )
