"""One shard, computed: its values, or why there are none, and what it took."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.kernels.errors import InterpError
from interp.sweeps.plan import Shard
from interp.sweeps.units import Unit
from interp.sweeps.work import Tables, Values, Work

ATTEMPTS = 4
"""Times a shard is begun before it counts as failed; only the death of a worker makes a second one."""

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Failure:
    """Why a shard has no values.

    Attributes:
        code: error code, '' for an error nobody foresaw.
        what, where, fix: as in `InterpError`.
        trace: traceback of an error nobody foresaw.
    """

    code: str
    what: str
    where: str = ""
    fix: str = ""
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        if isinstance(error, InterpError):
            return cls(error.code, error.what, error.where, error.fix)
        return cls("", f"{type(error).__name__}: {error}", trace="".join(traceback.format_exception(error)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a shard.

    Attributes:
        values: one table a unit; empty where it failed.
        seconds: wall time of the attempt that counted.
        peak_bytes: largest memory of the process so far.
        halvings: times that memory ran out and less was held at once.
        attempts: times it was begun.
        failure: None where it has values.
    """

    shard: Shard
    values: Tables = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    halvings: int = 0
    attempts: int = 1
    failure: Failure | None = None


def compute(work: Work, shard: Shard) -> Outcome:
    """Run a shard; errors of the data end up in the outcome, because other shards may still be fine."""
    started = time.perf_counter()
    try:
        values, halvings = run_units(work, shard.units)
    except Exception as error:
        return Outcome(shard, failure=Failure.of(error), seconds=time.perf_counter() - started)
    return Outcome(shard, values, time.perf_counter() - started, peak_memory(), halvings)


def run_units(work: Work, units: Sequence[Unit]) -> tuple[Tables, int]:
    """Values of units, and how often memory had to be halved for them.

    Raises:
        InterpError: E603 memory ran out although the least was held at once.
    """
    done: list[Values] = []
    halvings = 0
    while len(done) < len(units):
        try:
            done.extend(values for _, values in work.run(units[len(done) :]))
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            before = work.size
            if not work.halve():
                raise too_large(units[len(done)], before, error) from error
            halvings += 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return tuple(done), halvings


def is_memory_error(error: Exception) -> bool:
    """Whether memory ran out; torch has an error of its own for accelerators and a text for the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def too_large(unit: Unit, size: str, error: Exception) -> InterpError:
    return InterpError(
        "E603",
        f"out of memory at {size}, which is the least: {str(error).splitlines()[0] if str(error) else 'no more is known'}",
        where=f"prompts {unit.start} to {unit.stop - 1}, layer {unit.layer}",
        fix="use shorter prompts, a smaller dtype (--dtype bfloat16), or a machine with more memory",
    )


def peak_memory() -> int:
    """Largest memory of this process so far, in bytes: of the accelerator where there is one in use; 0 if unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    if STATUS.exists():  # what getrusage says there includes the process that started this one
        peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def pack(values: Tables) -> bytes:
    """Tables as bytes, one after the other."""
    return b"".join(np.ascontiguousarray(table, dtype="<f8").tobytes() for table in values)


def unpack(units: Sequence[Unit], data: bytes) -> Tables:
    """What `pack` was given for these units."""
    numbers = np.frombuffer(data, dtype="<f8")
    ends = np.cumsum([unit.cells for unit in units])
    assert len(numbers) == ends[-1], f"{len(numbers)} numbers for {ends[-1]} cells"
    return tuple(part.reshape(unit.shape) for unit, part in zip(units, np.split(numbers, ends[:-1]), strict=True))
