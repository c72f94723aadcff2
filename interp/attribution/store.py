"""A direct logit attribution on disk: rows.parquet, prompts.jsonl, drops.jsonl and, where kept, sources.safetensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from interp.ablation.result import PromptRecord
from interp.attribution.result import AttributionResult
from interp.circuits.runfolder import RunFolder
from interp.circuits.writes import Part
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError

ROWS, PROMPTS, DROPS, SOURCES = "rows.parquet", "prompts.jsonl", "drops.jsonl", "sources.safetensors"


def save(result: AttributionResult, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a run folder; the manifest also holds the parts, their controls, the run's id and the headline."""
    writer = RunFolder.create(folder, overwrite=overwrite)
    writer.write_rows(ROWS, result.to_frame())
    writer.write_lines(PROMPTS, (asdict(prompt) for prompt in result.prompts))
    writer.write_lines(DROPS, (asdict(drop) for drop in result.drops))
    shown = [prompt.id for prompt in result.prompts if prompt.id in result.sources]
    if shown:
        tensors = {
            f"sources.{index}": np.ascontiguousarray(result.sources[prompt]) for index, prompt in enumerate(shown)
        }
        writer.write_tensors(SOURCES, tensors, {"run_id": result.run_id, "axes": "head key_pos", "prompts": shown})
    parts = [{**asdict(part), "controls": labels} for part, labels in zip(result.parts, result.controls, strict=True)]
    content = {"run_id": result.run_id, "headline": result.headline(), "parts": parts, "sources": shown}
    return writer.finish(result.kind, result.run, **content).path


def load(folder: str | Path) -> AttributionResult:
    """Read a run folder and check that its files fit together (E701)."""
    run = RunFolder.open(folder, AttributionResult.kind)
    stored = [dict(entry) for entry in run.manifest["parts"]]
    controls = tuple(tuple(entry.pop("controls")) for entry in stored)
    parts = tuple(Part(**entry) for entry in stored)
    prompts = tuple(PromptRecord(**{**line, "tokens": tuple(line["tokens"])}) for line in run.read_lines(PROMPTS))
    table = run.read_rows(ROWS)
    expected = [(part.label, prompt.id) for part in parts for prompt in prompts]
    if list(zip(table["label"].to_pylist(), table["prompt_id"].to_pylist(), strict=True)) != expected or not expected:
        raise InterpError("E701", f"{ROWS} does not hold one row for each part and prompt", where=str(run.path))
    shape = (len(parts), len(prompts))
    tensors = run.read_tensors(SOURCES) if run.manifest["sources"] else {}
    values, logit_diff = (table[name].to_numpy().astype(np.float64).reshape(shape) for name in ("value", "logit_diff"))
    return AttributionResult(
        run=run.run,
        parts=parts,
        prompts=prompts,
        logit_diff=logit_diff[0],
        values=values,
        controls=controls,
        drops=tuple(Drop(**line) for line in run.read_lines(DROPS)),
        sources={prompt: tensors[f"sources.{index}"] for index, prompt in enumerate(run.manifest["sources"])},
    )
