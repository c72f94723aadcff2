"""The result of a head ablation: per-prompt rows, what they say about each head, and how it prints and is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from interp.ablation.tables import csv_text, rows, summary
from interp.ablation.text import as_html, as_text, headline
from interp.circuits.evidence import Evidence, judge
from interp.circuits.files import encode_json, run_id, write_atomic
from interp.circuits.results import Result, RunInfo
from interp.hooks.examples import Drop

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CHANCE_IS_ZERO = frozenset({"logit_diff", "prob_diff"})
"""Metrics that are 0 on average where a model cannot tell answer from distractor; others have no known chance level."""

TOP = 5


@dataclass(frozen=True)
class PromptRecord:
    """A kept prompt as the model saw it: what the report shows.

    Attributes:
        id: the example's id.
        tokens: one string a token, special tokens included, padding left out.
        answer: answer token as text, '' where the metric needs none.
        distractor: distractor token as text, '' likewise.
    """

    id: str
    tokens: tuple[str, ...]
    answer: str = ""
    distractor: str = ""


class HeadEffect(NamedTuple):
    """One head of a ranking, beside its controls; fields as in `Evidence`."""

    label: str
    mean: float
    ci_low: float
    ci_high: float
    control_mean: float
    q: float
    claimed: bool
    note: str


@dataclass(frozen=True, eq=False, repr=False)
class AblationResult(Result):
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

    kind: ClassVar[str] = "ablation"

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
        for name in ("baseline", "values"):
            numbers = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, np.where(np.isfinite(numbers), numbers, np.nan))
        patterns = {prompt: np.asarray(pattern, dtype=np.float16) for prompt, pattern in self.patterns.items()}
        object.__setattr__(self, "patterns", patterns)
        assert self.values.shape == (len(self.heads), len(self.prompts)), f"values of shape {self.values.shape}"
        assert len(self.controls) == len(self.heads), f"{len(self.controls)} control sets, {len(self.heads)} heads"
        assert set().union(*self.controls) <= set(self.heads), "a control head was not measured"
        assert set(patterns) <= {prompt.id for prompt in self.prompts}, "pattern of a prompt that was not kept"

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
        gate = self.metric in CHANCE_IS_ZERO
        return judge(self.effects, self.baseline, controls, gate=gate, seed=self.run.seeds["evidence"])

    @property
    def metric(self) -> str:
        """Name of the metric; higher is better in all of them."""
        return str(self.run.task["metric"])

    @property
    def run_id(self) -> str:
        """Digest of what was asked: equal for equal model, task, method and seeds, on any device."""
        model = {key: value for key, value in self.run.model.items() if key != "device"}
        return run_id({"model": model, "task": self.run.task, "method": self.run.method, "seeds": self.run.seeds})

    @property
    def n_not_finite(self) -> int:
        """Rows left out of every mean and test because a number in them is not finite."""
        return int((~np.isfinite(self.effects)).sum())

    def headline(self) -> str:
        """One sentence: which heads matter, or why none is claimed."""
        return headline(self)

    def top(self, k: int = TOP) -> tuple[HeadEffect, ...]:
        """Claimed heads first, then by size of the mean effect, helping or hurting."""
        found = self.evidence
        return tuple(
            HeadEffect(
                label=self.heads[head],
                mean=float(found.mean[head]),
                ci_low=float(found.ci_low[head]),
                ci_high=float(found.ci_high[head]),
                control_mean=float(found.control_mean[head]),
                q=float(found.q[head]),
                claimed=bool(found.claimed[head]),
                note=found.notes[head],
            )
            for head in found.ranking()[:k]
        )

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AblationResult):
            return NotImplemented
        names = ("heads", "prompts", "controls", "drops")
        return (
            all(getattr(self, name) == getattr(other, name) for name in names)
            and encode_json(self.run.to_dict()) == encode_json(other.run.to_dict())
            and encode_json(self.sweep) == encode_json(other.sweep)
            and np.array_equal(self.baseline, other.baseline, equal_nan=True)
            and np.array_equal(self.values, other.values, equal_nan=True)
            and self.patterns.keys() == other.patterns.keys()
            and all(np.array_equal(pattern, other.patterns[prompt]) for prompt, pattern in self.patterns.items())
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash, and equality is by value

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

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run folder; `overwrite` replaces a run that is there.

        Raises:
            InterpError: E204 the folder holds something else; E602 it cannot be written.
        """
        from interp.ablation.store import save

        return save(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> AblationResult:
        """Read a run folder and check every file in it.

        Raises:
            InterpError: E204 no complete run; E701 a file is missing, changed or does not fit the others; E702 a
                schema or kind that this version does not read.
        """
        from interp.ablation.store import load

        return load(folder)
