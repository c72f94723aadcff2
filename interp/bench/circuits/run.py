"""The whole bench: truth after truth, contender after contender."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from interp.bench.circuits.cells import FLOOR, LONGEST, measure
from interp.bench.circuits.contenders import ADAPTIVE, DRAWS, PLAIN, STEPS, contenders
from interp.bench.circuits.table import CircuitBench, Row
from interp.bench.circuits.truths import ABLATIONS, PROMPTS, Asked, cases, ground_truths
from interp.circuits.files import plain
from interp.circuits.results import environment
from interp.hooks.naive import Progress

PROCESSOR = Path("/proc/cpuinfo")


def run(
    models: Sequence[str] = (),
    methods: Sequence[str] = (),
    ablations: Sequence[str] = ABLATIONS,
    *,
    prompts: int = PROMPTS,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> CircuitBench:
    """Measure contenders on truths, one after the other.

    Args:
        models, methods: some of them; none is all.
        prompts: of each model, the first of those that are bundled with it.
        seed: of everything that is drawn.
        command: what a reader can type to repeat the run.
        progress: called with (cells done, all cells).

    Raises:
        InterpError: E201 unknown names.
    """
    truths, rows = ground_truths(models, ablations), contenders(methods)
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    asked, cells = [], []
    for case in cases(truths, prompts):
        asked.append(Asked.of(case))
        for row in rows:
            cells.append(measure(case, row, seed))
            if progress is not None:
                progress(len(cells), len(truths) * len(rows))
    record = {
        "command": command,
        "started": started,
        "seconds": round(time.monotonic() - clock, 1),
        "seed": seed,
        "settings": {
            "prompts": prompts,
            "steps": list(STEPS),
            "adaptive": {"gap": ADAPTIVE.gap, "most steps": ADAPTIVE.steps},
            "others": {name: getattr(PLAIN, name) for name in ("tau", "taus", "size", "epochs", "budget")},
            "draws": DRAWS,
            "floor": FLOOR,
            "seconds of a run that is made again to count memory, at most": LONGEST,
        },  # fmt: skip
        "machine": machine(),
        "versions": environment(),
    }
    return CircuitBench(plain(record), tuple(asked), tuple(map(Row.of, rows)), tuple(cells))


def machine() -> dict[str, Any]:
    """What seconds were measured on."""
    return {"processor": processor(), "threads": torch.get_num_threads()}


def processor() -> str:
    """What the processor calls itself, as far as the operating system tells."""
    if PROCESSOR.exists():
        for line in PROCESSOR.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
