"""The result of a head ablation: per-prompt rows, what they say about each head, and how it prints and is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.ablation.tables import csv_text, rows, summary
from interp.ablation.text import headline
from interp.circuits.evidence import Evidence, judge
from interp.circuits.files import write_atomic
from interp.circuits.prompt_results import PromptRecord, PromptResult, read_arrays
from interp.circuits.results import RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import counted
from interp.hooks.examples import Drop

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class AblationResult(PromptResult):
    """Per-prompt metric with each head ablated in turn.

    Effects are metric(clean) - metric(ablated): positive means the head helps. 0 means it does nothing.

    Attributes:
        run: provenance; read here: model `name`, `heads` and `kv_heads` (tower -> number in each layer), task `name`
            and `metric`, method `operator` and `positions`, seed `evidence`.
        heads: labels, in model order (`L0H0`, `L0H1`, ...).
        prompts: kept prompts, in order.
        baseline: metric of the untouched model.
        values: metric with the head ablated; nan where it was not finite.
        controls: for each head, the labels of its matched control heads (same layer, nearest output norm; never
            itself), all of them in `heads`; empty for a head that was measured only as a control.
        drops: prompts left out, with reasons.
        patterns: attention of every head of `heads` on a few prompts (prompt id -> pattern, kept as float16), for the
            report; empty where the model does not expose patterns (then `run.warnings` says why).
        sweep: who computed it, what it was expected to cost and what it did; empty for a run in memory.
    """

    kind = "ablation"
    numbers = ("baseline", "values")

    run: RunInfo
    heads: tuple[str, ...]
    prompts: tuple[PromptRecord, ...]
    baseline: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "head prompt"]
    controls: tuple[tuple[str, ...], ...]
    drops: tuple[Drop, ...] = ()
    patterns: Mapping[str, Float[np.ndarray, "head query_pos key_pos"]] = field(default_factory=dict)
    sweep: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        patterns = {prompt: np.asarray(pattern, dtype=np.float16) for prompt, pattern in self.patterns.items()}
        object.__setattr__(self, "patterns", patterns)
        assert len(self.controls) == len(self.heads), f"{len(self.controls)} control sets, {len(self.heads)} heads"
        assert set().union(*self.controls) <= set(self.heads), "a control head was not measured"
        assert set(patterns) <= {prompt.id for prompt in self.prompts}, "pattern of a prompt that was not kept"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.heads

    @property
    def effects(self) -> Float[np.ndarray, "head prompt"]:
        """metric(clean) - metric(ablated): positive means the head helps."""
        effects: np.ndarray = self.baseline[None, :] - self.values
        return effects

    @cached_property
    def evidence(self) -> Evidence:
        """What the rows say about each head; see `interp.circuits.evidence` for what a claim is."""
        index = {label: place for place, label in enumerate(self.heads)}
        controls = [tuple(index[label] for label in labels) for labels in self.controls]
        return judge(self.effects, self.baseline, controls, gate=self.has_chance, seed=self.run.seeds["evidence"])

    def headline(self) -> str:
        """One sentence: which heads matter, or why none is claimed."""
        return headline(self)

    def about(self) -> str:
        return f"{super().about()}, {self.metric}"

    def details(self) -> str:
        missing = f", {self.n_not_finite} rows not finite" if self.n_not_finite else ""
        return f"; {counted(len(self.heads), 'head')} x {counted(len(self.prompts), 'prompt')}{missing}"

    def to_frame(self) -> pd.DataFrame:
        """One row a head and prompt; `delta` is the effect, baseline - value."""
        return rows(self)

    def summary_frame(self) -> pd.DataFrame:
        """One row a head: mean effect, interval, controls, p-values and whether it is claimed."""
        return summary(self)

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows of `to_frame`; text that a spreadsheet would run as a formula gets a leading apostrophe."""
        return write_atomic(path, csv_text(self.to_frame()).encode())

    def plot(self) -> go.Figure:
        """Heat map of mean effects, layer by head."""
        from interp.report.figures import effect_heatmap

        return effect_heatmap(self)

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        """The usual tables and, where there are any, patterns.safetensors."""
        super().write_files(writer)
        shown = self.write_arrays(writer, "patterns", "pattern", "head query_pos key_pos")
        heads = [{"label": label, "controls": labels} for label, labels in zip(self.heads, self.controls, strict=True)]
        return {"heads": heads, "patterns": shown, **({"sweep": self.sweep} if self.sweep else {})}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        heads = tuple(entry["label"] for entry in run.manifest["heads"])
        return {
            **cls.read_numbers(run, heads),
            "heads": heads,
            "controls": tuple(tuple(entry["controls"]) for entry in run.manifest["heads"]),
            "patterns": read_arrays(run, "patterns", "pattern"),
            "sweep": run.manifest.get("sweep", {}),
        }
