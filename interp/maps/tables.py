"""Token maps as rows: for a terminal, and for a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.tables import interval, number

if TYPE_CHECKING:
    import pandas as pd

    from interp.maps.result import TokenMaps


def line(maps: TokenMaps, method: int) -> list[str]:
    """One line of the printed table, in the order of its columns; scores are those of the first way."""
    found, way = maps.evidence, maps.ways[0]
    deletion, insertion, ranks = (maps.row(f"{name} {way}", method) for name in ("deletion", "insertion", "agreement"))
    beats = "control" if method == maps.control else "yes" if _beats(maps, method) else "no"
    mean = [number(float(found.mean[row])) for row in (deletion, insertion, ranks)]
    ends = interval(float(found.ci_low[deletion]), float(found.ci_high[deletion]))
    control, q = number(float(found.control_mean[deletion])), number(float(found.q[deletion]))
    return [maps.methods[method], mean[0], ends, mean[1], mean[2], control, q, beats, fooled(maps, method)]


def _beats(maps: TokenMaps, method: int) -> bool:
    """Whether deletion falls by more than in random order, as far as may be claimed."""
    row = maps.row(f"deletion {maps.ways[0]}", method)
    return bool(maps.evidence.claimed[row] and maps.evidence.mean[row] > 0)


def fooled(maps: TokenMaps, method: int) -> str:
    """`0.83 of 29: yes`; a dash where no prompt tells."""
    found = maps.fooled
    if not found.n[method]:
        return "-"
    said = "yes" if found.is_fooled(method) else "no"
    return f"{number(float(found.share[method]))} of {int(found.n[method])}: {said}"


def beating(maps: TokenMaps) -> tuple[str, ...]:
    """Methods that beat the random map."""
    return tuple(name for index, name in enumerate(maps.methods[:-1]) if _beats(maps, index))


def frame(maps: TokenMaps) -> pd.DataFrame:
    """One row a method, prompt and token; what the metric loses without the token stands beside its importance."""
    import pandas as pd

    prompt, place = np.nonzero(np.isfinite(maps.values[maps.control]))
    n = len(maps.methods)
    texts = [maps.prompts[row].tokens[at] for row, at in zip(prompt, place, strict=True)]
    columns: dict[str, Any] = {
        "run_id": maps.run_id,
        "model": maps.run.model["name"],
        "task": maps.run.task["name"],
        "method": np.repeat(maps.methods, len(prompt)),
        "prompt_id": [maps.prompts[row].id for row in prompt] * n,
        "position": np.tile(place, n),
        "token": texts * n,
        "importance": maps.values[:, prompt, place].reshape(-1),
        "moved_importance": maps.moved_values[:, prompt, place].reshape(-1),
    }
    columns |= {f"loss_{way}": np.tile(maps.effects[way][prompt, place], n) for way in maps.ways}
    return pd.DataFrame(columns)
