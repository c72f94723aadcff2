"""The result of a direct logit attribution: the share of every part in every prompt, and what that says about heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.ablation.result import AblationResult
from interp.attribution.text import headline
from interp.circuits.evidence import Evidence, judge
from interp.circuits.prompt_results import PromptRecord, PromptResult, read_arrays
from interp.circuits.results import RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import counted, number
from interp.circuits.writes import Part
from interp.hooks.examples import Drop

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class AttributionResult(PromptResult):
    """Per-prompt logit difference, split over what the parts of a model wrote directly towards it.

    Positive means the part writes towards the answer. What a part does through later parts is in their shares, so a
    head with no share may still matter; `interp.ablate` asks that.

    Attributes:
        run: provenance; read here: model `name`, task `name`, method `position`, seed `evidence`.
        parts: in the model's order; constants (biases behind the stream) last.
        prompts: kept prompts, in order.
        logit_diff: the model's own logit difference, before its soft cap where it has one.
        values: share of each part; with `remainder` they sum to `logit_diff`.
        controls: for each part the labels of its matched control heads (same layer, nearest norm of what they write at
            the position read); empty for parts that are no heads.
        drops: prompts left out, with reasons.
        sources: prompt id -> share of each head split over key positions, for a few prompts; rows sum to the share of
            the head. Empty where the model does not expose patterns (then `run.warnings` says why).
    """

    kind = "attribution"
    columns = ("part", "share", "interval", "controls", "q", "claimed", "note")
    numbers = ("logit_diff", "values")
    unasked = frozenset({"largest_remainder"})

    run: RunInfo
    parts: tuple[Part, ...]
    prompts: tuple[PromptRecord, ...]
    logit_diff: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "part prompt"]
    controls: tuple[tuple[str, ...], ...]
    drops: tuple[Drop, ...] = ()
    sources: Mapping[str, Float[np.ndarray, "head key_pos"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        assert len(self.controls) == len(self.parts), f"{len(self.controls)} control sets, {len(self.parts)} parts"
        assert set().union(*self.controls) <= set(self.heads), "a control head has no share"
        assert set(self.sources) <= {prompt.id for prompt in self.prompts}, "sources of a prompt that was not kept"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(part.label for part in self.parts)

    @property
    def heads(self) -> tuple[str, ...]:
        """Labels of the heads, in model order: the rows of `sources`."""
        return tuple(part.label for part in self.parts if part.kind == "head")

    @property
    def effects(self) -> Float[np.ndarray, "part prompt"]:
        """The shares themselves: positive means the part writes towards the answer."""
        return self.values

    @property
    def remainder(self) -> Float[np.ndarray, " prompt"]:
        """Logit difference less the sum of all parts: the rounding of the model's own arithmetic."""
        rest: np.ndarray = self.logit_diff - self.values.sum(axis=0)
        return rest

    @cached_property
    def evidence(self) -> Evidence:
        """What the rows say about each part; heads alone are tested. See `interp.circuits.evidence`."""
        place = {part.label: index for index, part in enumerate(self.parts)}
        controls = [tuple(place[label] for label in labels) for labels in self.controls]
        gate = self.run.method["position"] == "end"  # elsewhere the answer is not asked for
        return judge(self.values, self.logit_diff, controls, gate=gate, seed=self.run.seeds["evidence"])

    def share_by_kind(self) -> dict[str, Float[np.ndarray, " prompt"]]:
        """Sum of the shares of each kind of part ('embed', 'head', 'bias', 'mlp', 'other'), prompt by prompt."""
        kinds = np.array([part.kind for part in self.parts])
        return {str(kind): self.values[kinds == kind].sum(axis=0) for kind in dict.fromkeys(kinds.tolist())}

    def share_by_layer(self) -> Float[np.ndarray, "layer prompt"]:
        """Sum of the shares of what each layer writes; embeddings and constants are in no layer."""
        layers = np.array([-1 if part.layer is None else part.layer for part in self.parts])
        return np.stack([self.values[layers == layer].sum(axis=0) for layer in range(int(layers.max()) + 1)])

    def headline(self) -> str:
        """One sentence: which heads write directly, or why none is claimed."""
        return headline(self)

    def details(self) -> str:
        size = f"{counted(len(self.parts), 'part')} x {counted(len(self.prompts), 'prompt')}"
        return f", position {self.run.method['position']}; {size}"

    def remarks(self) -> list[str]:
        """The mean logit difference as a sum over kinds of parts."""
        shares = {kind: float(np.nanmean(values)) for kind, values in self.share_by_kind().items()}
        terms = " ".join(f"{kind} {number(value, signed=True)}" for kind, value in shares.items())
        worst = float(np.nanmax(np.abs(self.remainder), initial=0.0))
        return [f"mean logit difference {number(float(np.nanmean(self.logit_diff)))} = {terms} (rounding {worst:.1e})"]

    def to_frame(self) -> pd.DataFrame:
        """One row a part and prompt, parts outermost."""
        import pandas as pd

        n_parts, n_prompts = self.values.shape
        columns: dict[str, Any] = {
            "run_id": self.run_id,
            "model": self.run.model["name"],
            "task": self.run.task["name"],
            "prompt_id": [prompt.id for prompt in self.prompts] * n_parts,
            "label": [part.label for part in self.parts for _ in range(n_prompts)],
            "kind": [part.kind for part in self.parts for _ in range(n_prompts)],
            "layer": pd.array([part.layer for part in self.parts], dtype="Int64").repeat(n_prompts),
            "head": pd.array([part.head for part in self.parts], dtype="Int64").repeat(n_prompts),
            "value": self.values.ravel(),
            "logit_diff": np.tile(self.logit_diff, n_parts),
        }
        return pd.DataFrame(columns, index=range(self.values.size))

    def as_effects(self) -> AblationResult:
        """The heads alone in the form of an ablation, for its tables and figures: the effect of a head is its share."""
        chosen = [index for index, part in enumerate(self.parts) if part.kind == "head"]
        task = {**self.run.task, "metric": "logit_diff"}
        method = {**self.run.method, "operator": "direct logit attribution", "positions": self.run.method["position"]}
        run = RunInfo.from_dict({**self.run.to_dict(), "task": task, "method": method})
        values = self.logit_diff[None, :] - self.values[chosen]
        controls = tuple(self.controls[index] for index in chosen)
        return AblationResult(run, self.heads, self.prompts, self.logit_diff, values, controls, self.drops)

    def plot(self) -> go.Figure:
        """Heat map of mean shares, layer by head; a dot marks claimed heads."""
        return self.as_effects().plot()

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        """The usual tables and, where kept, sources.safetensors."""
        super().write_files(writer)
        shown = self.write_arrays(writer, "sources", "sources", "head key_pos")
        parts = [{**asdict(part), "controls": labels} for part, labels in zip(self.parts, self.controls, strict=True)]
        return {"parts": parts, "sources": shown}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        stored = [dict(entry) for entry in run.manifest["parts"]]
        controls = tuple(tuple(entry.pop("controls")) for entry in stored)
        parts = tuple(Part(**entry) for entry in stored)
        fields = cls.read_numbers(run, [part.label for part in parts])
        return {**fields, "parts": parts, "controls": controls, "sources": read_arrays(run, "sources", "sources")}
