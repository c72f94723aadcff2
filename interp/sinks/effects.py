"""The result of doing something about sinks: a metric under each edit, beside the same edit elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import Effect, Evidence, judge
from interp.circuits.prompt_results import PromptRecord, PromptResult
from interp.circuits.results import RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import counted, interval, listed, number
from interp.hooks.examples import Drop
from interp.sinks.edits import CALIBRATED, REMOVED, ZEROED

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PURPOSE, CALIBRATION = "purpose", "calibration"
NOTHING = 0.1
"""Of what removing the sink costs: emptying its value costs nothing up to there."""


@dataclass(frozen=True, eq=False, repr=False)
class SinkEffects(PromptResult):
    """What edits of sinks do to a metric. Effects are metric(clean) - metric(edited): positive means that it was needed.

    Attributes:
        run: provenance; method `question` ('purpose' or 'calibration'), `heads` that were edited, `says` of each edit.
        labels_: edits first, then their controls.
        prompts: in order; of a calibration those that did not choose heads.
        baseline: metric of the untouched model.
        values: metric under each edit.
        controls: for each label the labels of its controls; none for controls themselves.
    """

    kind: ClassVar[str] = "sink-effects"
    unasked: ClassVar[frozenset[str]] = frozenset({"gains", "says"})
    columns: ClassVar[tuple[str, ...]] = ("edit", "effect", "interval", "controls", "q", "claimed", "note")
    numbers: ClassVar[tuple[str, ...]] = ("baseline", "values")

    run: RunInfo
    labels_: tuple[str, ...]
    prompts: tuple[PromptRecord, ...]
    baseline: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "label prompt"]
    controls: tuple[tuple[str, ...], ...]
    drops: tuple[Drop, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.labels_

    @property
    def edits(self) -> tuple[str, ...]:
        """Labels that are no controls."""
        members = {label for labels in self.controls for label in labels}
        return tuple(label for label in self.labels_ if label not in members)

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that were edited."""
        return tuple(self.run.method["heads"])

    @property
    def effects(self) -> Float[np.ndarray, "label prompt"]:
        """metric(clean) - metric(edited)."""
        effects: np.ndarray = self.baseline[None, :] - self.values
        return effects

    @cached_property
    def evidence(self) -> Evidence:
        """Each edit against its controls, with false-discovery control over edits."""
        at = {label: index for index, label in enumerate(self.labels_)}
        controls = [tuple(at[label] for label in labels) for labels in self.controls]
        return judge(self.effects, self.baseline, controls, gate=self.has_chance, seed=self.run.seeds["evidence"])

    def top(self, k: int = 6) -> tuple[Effect, ...]:
        """Edits in their order."""
        return tuple(self.row(self.labels_.index(label)) for label in self.edits[:k])

    def table(self, k: int = 6) -> list[list[str]]:
        return [self.line(row) for row in self.top(k)]

    @property
    def about_each(self) -> dict[str, str]:
        """What each edit does, in a few words."""
        return dict(self.run.method["says"])

    def headline(self) -> str:
        """What the sink is for, or what calibration brings."""
        return _purpose(self) if self.run.method["question"] == PURPOSE else _calibration(self)

    def remarks(self) -> list[str]:
        clean = number(float(np.nanmean(self.baseline)))
        lines = [f"edited: {listed(self.heads) or 'no head'}; {self.metric} of the untouched model {clean}"]
        return [*lines, *(f"{name}: {text}" for name, text in self.about_each.items()), *self.run.warnings]

    def to_frame(self) -> pd.DataFrame:
        """One row a label and prompt, labels outermost."""
        import pandas as pd

        n_labels, n_prompts = self.values.shape
        columns: dict[str, Any] = {
            "run_id": self.run_id,
            "model": self.run.model["name"],
            "task": self.run.task["name"],
            "prompt_id": [prompt.id for prompt in self.prompts] * n_labels,
            "label": [label for label in self.labels_ for _ in range(n_prompts)],
            "baseline": np.tile(self.baseline, n_labels),
            "value": self.values.ravel(),
            "effect": self.effects.ravel(),
        }
        return pd.DataFrame(columns, index=range(self.values.size))

    def plot(self) -> go.Figure:
        """Each edit with its interval, beside its controls."""
        from interp.report.sink_figures import edit_effects

        return edit_effects(self)

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        super().write_files(writer)
        return {"labels": list(self.labels_), "controls": [list(labels) for labels in self.controls]}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        labels = tuple(run.manifest["labels"])
        controls = tuple(tuple(one) for one in run.manifest["controls"])
        return {**cls.read_numbers(run, labels), "labels_": labels, "controls": controls}


def _purpose(result: SinkEffects) -> str:
    """The causal answer, from removing the sink and from emptying its value."""
    removed, emptied = (result.row(result.labels_.index(label)) for label in (REMOVED, ZEROED))
    n, task = counted(len(result.heads), "head"), result.run.task["name"]
    said = (
        f"without it {result.metric} falls by {number(removed.mean)} {interval(removed.ci_low, removed.ci_high)} "
        f"(another key: {number(removed.control_mean)}), with its value zeroed by {number(emptied.mean)} "
        f"(another key: {number(emptied.control_mean)})"
    )
    if not (removed.claimed or emptied.claimed):
        return f"No claim that {task} needs the sink of {n}: {said}."
    if removed.claimed and removed.mean > 0 and not emptied.claimed:
        nothing = abs(emptied.mean) <= NOTHING * removed.mean
        what = (
            "a place to rest: it is needed, and its value is not"
            if nothing
            else "needed; whether its value is read is open"
        )
    elif removed.claimed and not emptied.claimed:
        what = "in the way"
    elif emptied.claimed and not removed.claimed:
        what = "read for its value"
    else:
        what = "needed, and its value is read" if emptied.mean > 0 else "needed, though its value is in the way"
    return f"The sink of {n} is {what} ({task}): {said}."


def _calibration(result: SinkEffects) -> str:
    row = result.row(result.labels_.index(CALIBRATED))
    n, of = len(result.heads), counted(int(result.run.method["of"]), "head")
    chosen = counted(int(result.run.method["n_choose"]), "prompt")
    if not n:
        return f"No head of {of} gains from calibrating its sinks on the {chosen} that choose."
    low, high = -row.ci_high, -row.ci_low
    said = (
        f"calibrating {n} of {of}, chosen on {chosen}, changes {result.metric} by {number(-row.mean, signed=True)} "
        f"{interval(low, high)} on {counted(len(result.prompts), 'other prompt')}; "
        f"as many random heads by {number(-row.control_mean, signed=True)}"
    )
    if row.claimed and row.mean < 0:
        return f"{said[0].upper()}{said[1:]}."
    return f"No claim that calibration helps: {said}."
