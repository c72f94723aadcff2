"""A result of patching on disk and as a table: rows.parquet, prompts.jsonl and drops.jsonl."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.ablation.result import PromptRecord
from interp.circuits.runfolder import RunFolder
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError
from interp.patching.cells import Cell

if TYPE_CHECKING:
    import pandas as pd

    from interp.patching.result import PatchResult

ROWS, PROMPTS, DROPS = "rows.parquet", "prompts.jsonl", "drops.jsonl"
RUNS = ("value", "clean", "corrupt")


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


def save(result: PatchResult, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a run folder; the manifest also holds the cells, their controls, the run's id and the headline."""
    writer = RunFolder.create(folder, overwrite=overwrite)
    writer.write_rows(ROWS, result.to_frame())
    writer.write_lines(PROMPTS, (asdict(prompt) for prompt in result.prompts))
    writer.write_lines(DROPS, (asdict(drop) for drop in result.drops))
    cells = [
        {**cell.to_dict(), "controls": controls} for cell, controls in zip(result.cells, result.controls, strict=True)
    ]
    content = {"run_id": result.run_id, "headline": result.headline(), "cells": cells}
    return writer.finish(result.kind, result.run, **content).path


def load(folder: str | Path, kind: str) -> dict[str, Any]:
    """The fields of a result, from a run folder whose files fit together (E701)."""
    run = RunFolder.open(folder, kind)
    stored = run.manifest["cells"]
    cells = tuple(map(Cell.from_dict, stored))
    prompts = tuple(PromptRecord(**{**line, "tokens": tuple(line["tokens"])}) for line in run.read_lines(PROMPTS))
    table = run.read_rows(ROWS)
    expected = [(cell.label, prompt.id) for cell in cells for prompt in prompts]
    if list(zip(table["label"].to_pylist(), table["prompt_id"].to_pylist(), strict=True)) != expected or not expected:
        raise InterpError("E701", f"{ROWS} does not hold one row for each cell and prompt", where=str(run.path))
    shape = (len(cells), len(prompts))
    values, clean, corrupt = (table[name].to_numpy().astype(np.float64).reshape(shape) for name in RUNS)
    return {
        "run": run.run,
        "cells": cells,
        "prompts": prompts,
        "clean": clean[0],
        "corrupt": corrupt[0],
        "values": values,
        "controls": tuple(tuple(entry["controls"]) for entry in stored),
        "drops": tuple(Drop(**line) for line in run.read_lines(DROPS)),
    }
