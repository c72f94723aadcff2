"""The result of patching: per-prompt rows between a clean and a corrupt run, and what they say about each cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import Effect, Evidence, judge, moments
from interp.circuits.prompt_results import PromptRecord, PromptResult
from interp.circuits.results import RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import counted
from interp.hooks.examples import Drop
from interp.patching.cells import Cell, first_position
from interp.patching.tables import frame
from interp.patching.text import asked, both_runs, headline

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SAME = 0.01
"""Clean and corrupt metric count as equal where they differ by at most this share of the larger one."""

COST = "engine"
"""Part of the method that says how the numbers were computed; equal questions may differ in it."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchResult(PromptResult):
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

    kind = "patch"
    columns = ("cell", "effect", "normalised", "interval", "controls", "q", "claimed", "note")
    numbers = ("clean", "corrupt", "values")
    unasked = frozenset({COST})
    alike = ("points", "direction")

    run: RunInfo
    cells: tuple[Cell, ...]
    prompts: tuple[PromptRecord, ...]
    clean: Float[np.ndarray, " prompt"]
    corrupt: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "cell prompt"]
    controls: tuple[tuple[int, ...], ...]
    drops: tuple[Drop, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        assert len(self.controls) == len(self.cells), f"{len(self.controls)} control sets, {len(self.cells)} cells"

    @property
    def labels(self) -> tuple[str, ...]:
        """`L2H1`, or `L2H1@s2` in a grid."""
        return tuple(cell.label for cell in self.cells)

    @property
    def direction(self) -> str:
        return str(self.run.method["direction"])

    @property
    def effects(self) -> Float[np.ndarray, "cell prompt"]:
        """Change towards the clean run (denoise) or away from it (noise): positive means the part helps."""
        effects: np.ndarray = self.values - self.corrupt if self.direction == "denoise" else self.clean - self.values
        return effects

    @property
    def n_not_finite(self) -> int:
        """The same, without prompts that are too short to have the place of a cell."""
        return super().n_not_finite - sum(self._short(index) for index in range(len(self.cells)))

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
        return judge(self.effects, self.clean, self.controls, gate=self.has_chance, seed=self.run.seeds["evidence"])

    def headline(self) -> str:
        """One sentence: which cells matter, or why none is claimed."""
        return headline(self)

    def row(self, index: int) -> Effect:
        return super().row(index)._replace(note=self._note(index), normalised=float(self.mean_normalised[index]))

    def _note(self, index: int) -> str:
        """What a reader must know; prompts that are too short for a position are not broken."""
        note, total, short = self.evidence.notes[index], len(self.prompts), self._short(index)
        return note.replace(
            f"{short} of {total} prompts not finite, left out", f"{short} of {total} prompts are shorter"
        )

    def _short(self, index: int) -> int:
        """Prompts that end before the place of a cell."""
        first = first_position(self.cells[index].positions(self.run.method["positions"]))
        return sum(len(prompt.tokens) <= first for prompt in self.prompts)

    @property
    def claimed(self) -> tuple[str, ...]:
        """Labels of the claimed cells, largest effect first."""
        return tuple(row.label for row in self.top(len(self.cells)) if row.claimed)

    def details(self) -> str:
        shape = f"{counted(len(self.cells), 'cell')} x {counted(len(self.prompts), 'prompt')}"
        return f", {asked(self)}; {shape}"

    def remarks(self) -> list[str]:
        """The two runs that effects lie between."""
        return [both_runs(self)]

    def line(self, row: Effect) -> list[str]:
        label, mean, *rest = super().line(row)
        return [label, mean, "-" if math.isnan(row.normalised) else f"{row.normalised:.2f}", *rest]

    def to_frame(self) -> pd.DataFrame:
        """One row a cell and prompt, cells outermost."""
        return frame(self)

    def plot(self) -> go.Figure:
        """Heat map of mean effects: layers and heads, or heads (or layers) and places; a dot marks claimed cells."""
        from interp.patching.figure import heatmap

        return heatmap(self)

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        """The usual tables."""
        super().write_files(writer)
        cells = zip(self.cells, self.controls, strict=True)
        return {"cells": [{**cell.to_dict(), "controls": controls} for cell, controls in cells]}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        stored = run.manifest["cells"]
        cells = tuple(map(Cell.from_dict, stored))
        controls = tuple(tuple(entry["controls"]) for entry in stored)
        return {**cls.read_numbers(run, [cell.label for cell in cells]), "cells": cells, "controls": controls}


@dataclass(frozen=True, eq=False, repr=False)
class PathResult(PatchResult):
    """Per-prompt metric with the paths of one sender at a time patched; see `interp.circuits.paths` for what that is.

    Everything reads as in `PatchResult`; cells are senders, and method `receivers` and `through_mlps` say which paths.
    """

    kind = "paths"


def differs(clean: Any, corrupt: Any) -> Any:
    """Whether two values are apart by more than `SAME` of the larger one; False where one is missing."""
    return np.abs(clean - corrupt) > SAME * np.maximum(np.abs(clean), np.abs(corrupt))
