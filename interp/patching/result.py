"""The result of patching: per-prompt rows between a clean and a corrupt run, and what they say about each cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from interp.ablation.result import CHANCE_IS_ZERO, TOP, PromptRecord
from interp.circuits.evidence import Evidence, judge, moments
from interp.circuits.files import encode_json, run_id
from interp.circuits.results import Result, RunInfo
from interp.hooks.examples import Drop
from interp.patching.cells import Cell, first_position

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SAME = 0.01
"""Clean and corrupt metric count as equal where they differ by at most this share of the larger one."""

COST = "engine"
"""Part of the method that says how the numbers were computed; equal questions may differ in it."""


class CellEffect(NamedTuple):
    """One cell of a ranking, beside its controls; fields as in `Evidence`, and `normalised` as in `PatchResult`."""

    label: str
    mean: float
    normalised: float
    ci_low: float
    ci_high: float
    control_mean: float
    q: float
    claimed: bool
    note: str


@dataclass(frozen=True, eq=False, repr=False)
class PatchResult(Result):
    """Per-prompt metric with one cell patched at a time.

    Denoising runs the corrupt prompts with clean activations put in; an effect is metric(patched) - metric(corrupt).
    Noising runs the clean prompts with corrupt ones; an effect is metric(clean) - metric(patched). In both, positive
    means that the part carries what makes the clean answer right, and 0 that it does nothing.

    Attributes:
        run: provenance; read here: model `name`, task `name` and `metric`, method `direction`, `points`, `positions`
            and `axis`, seed `evidence`.
        cells: rows of `values`: units (heads, key/value heads, layers or groups) at places.
        prompts: kept prompts, in order.
        clean, corrupt: metric of both untouched runs, each with the answers of the clean prompt.
        values: metric of the patched run; nan where it was not finite, or a prompt does not have the place.
        controls: for each cell the numbers of its control cells: same place, same layer, nearest output norm (for a
            group: random sets); empty for cells measured only as controls, and for layers.
        drops: prompts left out, with reasons.
    """

    kind: ClassVar[str] = "patch"

    run: RunInfo
    cells: tuple[Cell, ...]
    prompts: tuple[PromptRecord, ...]
    clean: Float[np.ndarray, " prompt"]
    corrupt: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "cell prompt"]
    controls: tuple[tuple[int, ...], ...]
    drops: tuple[Drop, ...] = ()

    def __post_init__(self) -> None:
        for name in ("clean", "corrupt", "values"):
            numbers = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, np.where(np.isfinite(numbers), numbers, np.nan))
        assert self.values.shape == (len(self.cells), len(self.prompts)), f"values of shape {self.values.shape}"
        assert len(self.controls) == len(self.cells), f"{len(self.controls)} control sets, {len(self.cells)} cells"
        assert len(set(self.labels)) == len(self.cells), "two cells have one label"

    @property
    def labels(self) -> tuple[str, ...]:
        """`L2H1`, or `L2H1@s2` in a grid."""
        return tuple(cell.label for cell in self.cells)

    @property
    def metric(self) -> str:
        """Name of the metric; higher is better in all of them."""
        return str(self.run.task["metric"])

    @property
    def direction(self) -> str:
        return str(self.run.method["direction"])

    @property
    def effects(self) -> Float[np.ndarray, "cell prompt"]:
        """Change towards the clean run (denoise) or away from it (noise): positive means the part helps."""
        effects: np.ndarray = self.values - self.corrupt if self.direction == "denoise" else self.clean - self.values
        return effects

    @property
    def gap(self) -> Float[np.ndarray, " prompt"]:
        """metric(clean) - metric(corrupt)."""
        gap: np.ndarray = self.clean - self.corrupt
        return gap

    @property
    def has_gap(self) -> Bool[np.ndarray, " prompt"]:
        """Prompts whose clean and corrupt metric differ; without that, nothing can be said in parts of the gap."""
        return differs(self.clean, self.corrupt)

    @property
    def normalised(self) -> Float[np.ndarray, "cell prompt"]:
        """Where each patched run stands between the corrupt run (0) and the clean run (1); nan without a gap."""
        gap = np.where(self.has_gap, self.gap, np.nan)
        return (self.values - self.corrupt) / gap

    @cached_property
    def mean_normalised(self) -> Float[np.ndarray, " cell"]:
        """The same of means over prompts, which a small gap of one prompt does not upset.

        (mean(values) - mean(corrupt)) / (mean(clean) - mean(corrupt)) over the prompts with a gap and a finite value;
        nan where the two means are equal too (prompts with gaps of both signs).
        """
        usable = self.has_gap & np.isfinite(self.values)
        patched, clean, corrupt = (
            moments(np.where(usable, row, np.nan))[1] for row in (self.values, self.clean, self.corrupt)
        )
        return (patched - corrupt) / np.where(differs(clean, corrupt), clean - corrupt, np.nan)

    @cached_property
    def evidence(self) -> Evidence:
        """What the rows say about each cell; see `interp.circuits.evidence` for what a claim is."""
        gate = self.metric in CHANCE_IS_ZERO
        return judge(self.effects, self.clean, self.controls, gate=gate, seed=self.run.seeds["evidence"])

    @property
    def run_id(self) -> str:
        """Digest of what was asked: equal for equal model, task, method and seeds, on any device."""
        model = {key: value for key, value in self.run.model.items() if key != "device"}
        method = {key: value for key, value in self.run.method.items() if key != COST}
        return run_id({"model": model, "task": self.run.task, "method": method, "seeds": self.run.seeds})

    def headline(self) -> str:
        """One sentence: which cells matter, or why none is claimed."""
        from interp.patching.text import headline

        return headline(self)

    def top(self, k: int = TOP) -> tuple[CellEffect, ...]:
        """Claimed cells first, then by size of the mean effect."""
        return tuple(self.row(index) for index in self.evidence.ranking()[:k])

    def row(self, index: int) -> CellEffect:
        """One cell's numbers."""
        found = self.evidence
        return CellEffect(
            label=self.labels[index],
            mean=float(found.mean[index]),
            normalised=float(self.mean_normalised[index]),
            ci_low=float(found.ci_low[index]),
            ci_high=float(found.ci_high[index]),
            control_mean=float(found.control_mean[index]),
            q=float(found.q[index]),
            claimed=bool(found.claimed[index]),
            note=self._note(index),
        )

    def _note(self, index: int) -> str:
        """What a reader must know; prompts that are too short for a position are not broken."""
        note, total = self.evidence.notes[index], len(self.prompts)
        first = first_position(self.cells[index].positions(self.run.method["positions"]))
        short = sum(len(prompt.tokens) <= first for prompt in self.prompts)
        return note.replace(
            f"{short} of {total} prompts not finite, left out", f"{short} of {total} prompts are shorter"
        )

    @property
    def claimed(self) -> tuple[str, ...]:
        """Labels of the claimed cells, largest effect first."""
        return tuple(row.label for row in self.top(len(self.cells)) if row.claimed)

    def __repr__(self) -> str:
        from interp.patching.text import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from interp.patching.text import as_html

        return as_html(self)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        same = all(getattr(self, name) == getattr(other, name) for name in ("cells", "prompts", "controls", "drops"))
        numbers = all(
            np.array_equal(getattr(self, name), getattr(other, name), equal_nan=True)
            for name in ("clean", "corrupt", "values")
        )
        return same and numbers and encode_json(self.run.to_dict()) == encode_json(other.run.to_dict())

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash, and equality is by value

    def to_frame(self) -> pd.DataFrame:
        """One row a cell and prompt, cells outermost."""
        from interp.patching.store import frame

        return frame(self)

    def plot(self) -> go.Figure:
        """Heat map of mean effects: layers and heads, or heads (or layers) and places; a dot marks claimed cells."""
        from interp.patching.figure import heatmap

        return heatmap(self)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run folder; `overwrite` replaces a run that is there.

        Raises:
            InterpError: E204 the folder holds something else; E602 it cannot be written.
        """
        from interp.patching.store import save

        return save(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> PatchResult:
        """Read a run folder and check every file in it.

        Raises:
            InterpError: E204 no complete run; E701 a file is missing, changed or does not fit the others; E702 a
                schema or kind that this version does not read.
        """
        from interp.patching.store import load

        return cls(**load(folder, cls.kind))


@dataclass(frozen=True, eq=False, repr=False)
class PathResult(PatchResult):
    """Per-prompt metric with the paths of one sender at a time patched; see `interp.circuits.paths` for what that is.

    Everything reads as in `PatchResult`; cells are senders, and method `receivers` and `through_mlps` say which paths.
    """

    kind: ClassVar[str] = "paths"


def differs(clean: Any, corrupt: Any) -> Any:
    """Whether two values are apart by more than `SAME` of the larger one; False where one is missing."""
    return np.abs(clean - corrupt) > SAME * np.maximum(np.abs(clean), np.abs(corrupt))
