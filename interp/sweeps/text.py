"""What a sweep costs, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.sweeps.estimate import Estimate

UNITS = ("B", "kB", "MB", "GB", "TB")


def size(n_bytes: float | int) -> str:
    """`1.2 MB`."""
    power = 0
    while n_bytes >= 1000 and power < len(UNITS) - 1:
        n_bytes, power = n_bytes / 1000, power + 1
    return f"{n_bytes:.3g} {UNITS[power]}"


def duration(seconds: float | int) -> str:
    """`0.4 s`, `3 min 20 s`, `5 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def flops(number: float | int) -> str:
    """`1.2e+09`."""
    return f"{number:.2e}"


def estimate_lines(expected: Estimate) -> list[str]:
    """A plan for people."""
    return [
        f"shards:      {expected.shards}, of {expected.units} units",
        f"edits:       {expected.edits}, of a batch each",
        f"operations:  {flops(expected.flops)} FLOP",
        f"peak memory: {size(expected.peak_bytes)} in each worker, measured on one unit",
        f"disk:        about {size(expected.disk_bytes)}",
        f"time:        about {duration(expected.seconds)}, by one unit that was run",
    ]


def cost_rows(sweep: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What was planned and what happened: name, planned, actual."""
    expected, actual = sweep["expected"], sweep["actual"]
    return [
        ("edits of a batch", str(expected["edits"]), str(actual["edits"])),
        ("operations", f"{flops(expected['flops'])} FLOP", "not counted"),
        ("time of all workers", duration(expected["cpu_seconds"]), duration(actual["cpu_seconds"])),
        ("wall time", duration(expected["seconds"]), f"{duration(actual['seconds'])}, with the start of workers"),
        ("peak memory of a worker", size(expected["peak_bytes"]), size(actual["peak_bytes"])),
        ("disk", size(expected["disk_bytes"]), size(actual["disk_bytes"])),
        ("shards", str(expected["shards"]), f"{sweep['shards']}, begun {actual['attempts']} times"),
    ]


def cost_lines(sweep: Mapping[str, Any]) -> list[str]:
    """One line on who computed and what it took; none for a run in memory."""
    if not sweep:
        return []
    actual, workers = sweep["actual"], sweep["workers"]
    who = f"{sweep['executor']}, {workers} worker{'s' if workers > 1 else ''}, {sweep['shards']} shards"
    resumed = f", {actual['resumed']} of them resumed" if actual["resumed"] else ""
    planned = duration(sweep["expected"]["cpu_seconds"])
    return [f"{who}{resumed}; {duration(actual['cpu_seconds'])} of computing, planned {planned}"]
