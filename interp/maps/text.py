"""Token maps in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.tables import counted, interval, listed, number
from interp.maps.tables import beating

if TYPE_CHECKING:
    from interp.maps.result import TokenMaps


def headline(maps: TokenMaps) -> str:
    """Which map to believe, how many are better than chance, and which are fooled."""
    better, total, found = beating(maps), len(maps.methods) - 1, maps.contest
    if not better:
        why = "" if maps.evidence.does_task else f"; {maps.metric} is not above chance"
        return f"No map of {total} is better than a random one by deletion{why}."
    assert found.best is not None
    tied = [maps.methods[one] for one in found.tied()]
    beside = f"tied with {listed(tied)}" if tied else "ahead of every other"
    said = f"{maps.methods[found.best]} is the most faithful map by deletion, {beside}"
    return f"{said}; {len(better)} of {total} beat a random map; {_fooled(maps)}."


def _fooled(maps: TokenMaps) -> str:
    if not maps.fooled.n.any():
        return "whether moved attention fools them was not told"
    names = [name for index, name in enumerate(maps.methods) if maps.fooled.is_fooled(index)]
    return f"moved attention fools {listed(names) or 'none'}"


def remarks(maps: TokenMaps) -> list[str]:
    """The second way, how far attention was moved, and what to know."""
    neutral = f" (the neutral token is {maps.run.method['neutral']!r})" if "neutral" in maps.ways else ""
    lines = [
        f"tokens are taken away by {' and by '.join(maps.ways)}{neutral}; {maps.metric} is "
        f"{number(float(np.nanmean(maps.baseline)))} with all of them"
    ]
    lines += [_other_way(maps, way) for way in maps.ways[1:]]
    lines += _moved(maps)
    return [*lines, *(f"note: {warning}" for warning in maps.run.warnings)]


def _other_way(maps: TokenMaps, way: str) -> str:
    """The best by deletion in another way."""
    rows = [maps.row(f"deletion {way}", index) for index in range(len(maps.methods))]
    mean = maps.evidence.mean[rows]
    best = int(np.nanargmax(mean[:-1]))
    low, high = (float(ends[rows[best]]) for ends in (maps.evidence.ci_low, maps.evidence.ci_high))
    return (
        f"by {way}: {maps.methods[best]} first with a deletion of {number(float(mean[best]))} {interval(low, high)}, "
        f"random {number(float(mean[-1]))}"
    )


def _moved(maps: TokenMaps) -> list[str]:
    """How far attention was moved, and what that left of the answer."""
    moves, moved = maps.moves, np.isfinite(maps.moves["true"])
    if not moved.any():
        return ["attention was not moved"]
    mean = {name: float(values[moved].mean()) for name, values in moves.items()}
    unit = "nats" if maps.run.task["metric"] != "cosine" else "of 1 - cosine"
    return [
        f"attention moved in {counted(int(moved.sum()), 'prompt')}: {number(mean['distance'])} of each row on average, "
        f"from the true token ({number(mean['true_before'])} to {number(mean['true_after'])}) to a decoy "
        f"({number(mean['decoy_before'])} to {number(mean['decoy_after'])}), while the output changed by at most "
        f"{number(float(moves['change'][moved].max()))} {unit}"
    ]
