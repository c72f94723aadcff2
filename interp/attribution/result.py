"""The result of a direct logit attribution: the share of every part in every prompt, and what that says about heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.ablation.result import TOP, AblationResult, HeadEffect, PromptRecord
from interp.circuits.evidence import Evidence, judge
from interp.circuits.files import encode_json, run_id
from interp.circuits.results import Result, RunInfo
from interp.circuits.writes import Part
from interp.hooks.examples import Drop

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class AttributionResult(Result):
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

    kind: ClassVar[str] = "attribution"

    run: RunInfo
    parts: tuple[Part, ...]
    prompts: tuple[PromptRecord, ...]
    logit_diff: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "part prompt"]
    controls: tuple[tuple[str, ...], ...]
    drops: tuple[Drop, ...] = ()
    sources: Mapping[str, Float[np.ndarray, "head key_pos"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("logit_diff", "values"):
            numbers = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, np.where(np.isfinite(numbers), numbers, np.nan))
        assert self.values.shape == (len(self.parts), len(self.prompts)), f"values of shape {self.values.shape}"
        assert len(self.controls) == len(self.parts), f"{len(self.controls)} control sets, {len(self.parts)} parts"
        assert set().union(*self.controls) <= set(self.heads), "a control head has no share"
        assert set(self.sources) <= {prompt.id for prompt in self.prompts}, "sources of a prompt that was not kept"

    @property
    def heads(self) -> tuple[str, ...]:
        """Labels of the heads, in model order: the rows of `sources`."""
        return tuple(part.label for part in self.parts if part.kind == "head")

    @property
    def remainder(self) -> Float[np.ndarray, " prompt"]:
        """Logit difference less the sum of all parts: the rounding of the model's own arithmetic."""
        rest: np.ndarray = self.logit_diff - self.values.sum(axis=0)
        return rest

    @property
    def run_id(self) -> str:
        """Digest of what was asked: equal for equal model, task, method and seeds, on any device."""
        model = {key: value for key, value in self.run.model.items() if key != "device"}
        method = {key: value for key, value in self.run.method.items() if key != "largest_remainder"}
        return run_id({"model": model, "task": self.run.task, "method": method, "seeds": self.run.seeds})

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
        from interp.attribution.text import headline

        return headline(self)

    def top(self, k: int = TOP) -> tuple[HeadEffect, ...]:
        """Parts of any kind: claimed heads first, then by size of the mean share."""
        found = self.evidence
        return tuple(
            HeadEffect(
                label=self.parts[index].label,
                mean=float(found.mean[index]),
                ci_low=float(found.ci_low[index]),
                ci_high=float(found.ci_high[index]),
                control_mean=float(found.control_mean[index]),
                q=float(found.q[index]),
                claimed=bool(found.claimed[index]),
                note=found.notes[index],
            )
            for index in found.ranking()[:k]
        )

    def __repr__(self) -> str:
        from interp.attribution.text import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from interp.attribution.text import as_html

        return as_html(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AttributionResult):
            return NotImplemented
        return (
            all(getattr(self, name) == getattr(other, name) for name in ("parts", "prompts", "controls", "drops"))
            and encode_json(self.run.to_dict()) == encode_json(other.run.to_dict())
            and np.array_equal(self.logit_diff, other.logit_diff, equal_nan=True)
            and np.array_equal(self.values, other.values, equal_nan=True)
            and self.sources.keys() == other.sources.keys()
            and all(np.array_equal(rows, other.sources[prompt]) for prompt, rows in self.sources.items())
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash, and equality is by value

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

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run folder; `overwrite` replaces a run that is there.

        Raises:
            InterpError: E204 the folder holds something else; E602 it cannot be written.
        """
        from interp.attribution.store import save

        return save(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> AttributionResult:
        """Read a run folder and check every file in it.

        Raises:
            InterpError: E204 no complete run; E701 a file is missing, changed or does not fit the others; E702 a
                schema or kind that this version does not read.
        """
        from interp.attribution.store import load

        return load(folder)
