"""A head ablation on disk: rows.parquet, prompts.jsonl, drops.jsonl and, where there are any, patterns.safetensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.ablation.result import AblationResult, PromptRecord
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = "rows.parquet"
PROMPTS = "prompts.jsonl"
DROPS = "drops.jsonl"
PATTERNS = "patterns.safetensors"


def save(result: AblationResult, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a run folder."""
    return write(result, RunFolder.create(folder, overwrite=overwrite))


def write(result: AblationResult, writer: RunWriter) -> Path:
    """Write the files of a result; the manifest also holds heads, their controls, the run's id and the headline."""
    writer.write_rows(ROWS, result.to_frame())
    writer.write_lines(PROMPTS, (asdict(prompt) for prompt in result.prompts))
    writer.write_lines(DROPS, (asdict(drop) for drop in result.drops))
    shown = [prompt.id for prompt in result.prompts if prompt.id in result.patterns]
    if shown:
        tensors = {
            f"pattern.{index}": np.ascontiguousarray(result.patterns[prompt]) for index, prompt in enumerate(shown)
        }
        about = {"run_id": result.run_id, "axes": "head query_pos key_pos", "prompts": shown}
        writer.write_tensors(PATTERNS, tensors, about)
    heads = [{"label": label, "controls": labels} for label, labels in zip(result.heads, result.controls, strict=True)]
    content = {"run_id": result.run_id, "headline": result.headline(), "heads": heads, "patterns": shown}
    sweep = {"sweep": result.sweep} if result.sweep else {}
    return writer.finish(result.kind, result.run, **content, **sweep).path


def load(folder: str | Path) -> AblationResult:
    """Read a run folder and check that its files fit together."""
    run = RunFolder.open(folder, AblationResult.kind)
    heads = tuple(entry["label"] for entry in run.manifest["heads"])
    prompts = tuple(PromptRecord(**{**line, "tokens": tuple(line["tokens"])}) for line in run.read_lines(PROMPTS))
    table = run.read_rows(ROWS)
    _check_rows(table, heads, prompts, run.path)
    shape = (len(heads), len(prompts))
    tensors = run.read_tensors(PATTERNS) if run.manifest["patterns"] else {}
    return AblationResult(
        run=run.run,
        heads=heads,
        prompts=prompts,
        baseline=_numbers(table, "baseline").reshape(shape)[0],
        values=_numbers(table, "value").reshape(shape),
        controls=tuple(tuple(entry["controls"]) for entry in run.manifest["heads"]),
        drops=tuple(Drop(**line) for line in run.read_lines(DROPS)),
        patterns={prompt: tensors[f"pattern.{index}"] for index, prompt in enumerate(run.manifest["patterns"])},
        sweep=run.manifest.get("sweep", {}),
    )


def _check_rows(table: pa.Table, heads: tuple[str, ...], prompts: tuple[PromptRecord, ...], folder: Path) -> None:
    """Raise E701 unless there is one row for each head and prompt, in order."""
    expected = [(label, prompt.id) for label in heads for prompt in prompts]
    found = list(zip(table["label"].to_pylist(), table["prompt_id"].to_pylist(), strict=True))
    if found != expected or not expected:
        raise InterpError("E701", f"{ROWS} does not hold one row for each head and prompt", where=str(folder))


def _numbers(table: pa.Table, name: str) -> Any:
    """A column as float64."""
    return table[name].to_numpy().astype(np.float64)
