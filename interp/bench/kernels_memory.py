"""What attention with statistics costs in a fresh process: seconds, and memory beyond its inputs; and how both grow."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import interp
from interp.bench.kernels import given_by, scene, torch_call, whole_call
from interp.kernels.errors import InterpError

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        mib: largest resident memory during the call beyond that before it, its answer included; None where the
            operating system does not tell.
    """

    backend: str
    mode: str
    length: int
    seconds: float
    mib: float | None


def fresh_cost(backend: str, mode: str, length: int, *, heads: int, threads: int, mask: str = "causal") -> Cost:
    """Runs one call in a process of its own. `backend` is 'torch' or one of ours."""
    command = [sys.executable, "-m", __name__, backend, mode, str(length), str(heads), str(threads), mask]
    home = str(Path(interp.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([home, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise InterpError("E603", f"{backend} at {length} tokens stopped", where=done.stderr.strip()[-300:])
    return Cost(backend, mode, length, **json.loads(done.stdout))


def growth(costs: list[Cost]) -> tuple[float, float | None]:
    """Exponents of time and memory in length, between the first and the last of some costs."""
    first, last = costs[0], costs[-1]
    lengths = math.log(last.length / first.length)
    time_exponent = math.log(last.seconds / first.seconds) / lengths
    if not first.mib or not last.mib:
        return time_exponent, None
    return time_exponent, math.log(last.mib / first.mib) / lengths


def _here(backend: str, mode: str, length: int, heads: int, mask: str) -> dict[str, float | None]:
    def call_of(length: int) -> object:
        shown = scene(mask, length, heads)
        return (
            torch_call(shown)
            if backend == "torch"
            else whole_call(shown, backend, given_by(shown, backend, mode) or ())
        )

    small, call = call_of(128), call_of(length)
    assert callable(small) and callable(call)
    small()  # what is loaded at the first call is no cost of a call
    before = _resident("VmRSS")
    if before is not None:
        REFERENCES.write_text("5")  # forget the peak so far
    start = time.perf_counter()
    answer = call()
    elapsed, peak = time.perf_counter() - start, _resident("VmHWM")
    del answer
    return {"seconds": elapsed, "mib": None if before is None or peak is None else (peak - before) / 1024}


def _resident(name: str) -> int | None:
    """KiB by the name that Linux gives them."""
    if not (STATUS.exists() and os.access(REFERENCES, os.W_OK)):
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0])


if __name__ == "__main__":
    given = sys.argv[1:]
    torch.set_num_threads(int(given[4]))
    print(json.dumps(_here(given[0], given[1], int(given[2]), int(given[3]), given[5])))
