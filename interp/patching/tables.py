"""A result of patching as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from interp.patching.result import PatchResult


def frame(result: PatchResult) -> pd.DataFrame:
    """One row a cell and prompt, cells outermost."""
    import pandas as pd

    n_cells, n_prompts = result.values.shape
    units = [cell.unit for cell in result.cells]
    places = ["" if cell.place is None else str(cell.place) for cell in result.cells]

    def numbers(values: list[int | None]) -> Any:
        return pd.array(values, dtype="Int64").repeat(n_prompts)

    columns: dict[str, Any] = {
        "run_id": result.run_id,
        "model": result.run.model["name"],
        "task": result.run.task["name"],
        "prompt_id": [prompt.id for prompt in result.prompts] * n_cells,
        "label": np.repeat(np.array(result.labels, dtype=object), n_prompts),
        "layer": numbers([unit.layer for unit in units]),
        "head": numbers([unit.head for unit in units]),
        "axis": result.run.method["axis"],
        "place": np.repeat(np.array(places, dtype=object), n_prompts),
        "kind": result.kind,
        "direction": result.direction,
        "points": result.run.method["points"],
        "metric": result.metric,
        "value": result.values.ravel(),
        "clean": np.tile(result.clean, n_cells),
        "corrupt": np.tile(result.corrupt, n_cells),
        "effect": result.effects.ravel(),
        "normalised": result.normalised.ravel(),
        "n_tokens": np.tile(np.array([len(prompt.tokens) for prompt in result.prompts], dtype=np.int64), n_cells),
        "finite": np.isfinite(result.effects).ravel(),
    }
    return pd.DataFrame(columns, index=range(n_cells * n_prompts))
