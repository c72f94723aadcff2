"""Result of the study: what every intervention does to false reports of absent things, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.circuits.results import Result, RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import counted, interval, listed, number
from interp.vision.questions import ABSENT, COMPANION, PRESENT, REGULAR, SETS
from interp.vision.verdict import ALIKE, LEAST, MOST_LOST, Row, ends, reduction, reduction_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS = "rows.parquet"


@dataclass(frozen=True, eq=False, repr=False)
class SeeingStudy(Result):
    """Interventions compared on one set of questions, with settings chosen on another.

    Attributes:
        methods: name, source, chosen setting, heads and note of each.
        margins: set of questions -> logit of the counted word less that of all others; the untouched model first.
        controls: name of a method / set of questions -> the same for different sets of other heads in its place.
        prompts: set of questions -> ids.
    """

    kind: ClassVar[str] = "vision-study"
    columns: ClassVar[tuple[str, ...]] = (
        "method", "setting", "false yes", "less by", "regular", "yes, present", "yes, companion", "beyond threshold",
        "controls", "bar", "note",
    )  # fmt: skip

    run: RunInfo
    methods: tuple[Mapping[str, Any], ...]
    margins: Mapping[str, Float[np.ndarray, "row _"]]
    controls: Mapping[str, Float[np.ndarray, "draw _"]]
    prompts: Mapping[str, tuple[str, ...]]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One a method, in order."""
        return tuple(self._row(index) for index in range(len(self.methods)))

    @property
    def baseline(self) -> dict[str, float]:
        """Rate of the counted word in each set, untouched."""
        return {name: float((values[0] > 0).mean()) for name, values in self.margins.items()}

    def _row(self, index: int) -> Row:
        about = self.methods[index]
        said = {name: values[index + 1] > 0 for name, values in self.margins.items()}
        was = {name: values[0] > 0 for name, values in self.margins.items()}
        change = {name: said[name].astype(float) - was[name] for name in said}
        beyond = said[COMPANION] - self._harder(int(said[ABSENT].sum())).astype(float)
        drawn = {kind: self.controls.get(f"{about['method']}/{kind}", np.empty((0, 1))) for kind in (ABSENT, REGULAR)}
        return Row(
            about["method"], about["source"], about["setting"], tuple(about["heads"]),
            false_yes=float(said[ABSENT].mean()),
            reduction=reduction(was[ABSENT], said[ABSENT]), reduction_ends=reduction_interval(was[ABSENT], said[ABSENT]),
            regular=float(change[REGULAR].mean()), regular_ends=ends(change[REGULAR]),
            present=float(change[PRESENT].mean()),
            companion=float(change[COMPANION].mean()), companion_ends=ends(change[COMPANION]),
            beyond=float(beyond.mean()), beyond_ends=ends(beyond),
            controls=tuple(reduction(was[ABSENT], one > 0) for one in drawn[ABSENT]),
            controls_regular=tuple(float(((one > 0) - was[REGULAR].astype(float)).mean()) for one in drawn[REGULAR]),
            note=about["note"],
        )  # fmt: skip

    def _harder(self, false_yes: int) -> np.ndarray:
        """Yes to companions that are there, with the threshold at which as many absent ones are reported."""
        absent = np.sort(self.margins[ABSENT][0])[::-1]
        cut = -np.inf if false_yes >= len(absent) else absent[false_yes]
        found: np.ndarray = self.margins[COMPANION][0] > cut
        return found

    def headline(self) -> str:
        """One sentence."""
        rate = number(self.baseline[ABSENT])
        met = [row for row in self.rows if row.meets and row.source != "control"]
        alike = [row.method for row in self.rows if row.separates is False]
        doubt = f"; {ALIKE}: {listed(alike)}" if alike else ""
        if not met:
            share = f"{LEAST:.0%}, and by more than other heads do," if alike else f"{LEAST:.0%}"
            return f"No method lowers false yes ({rate}) by {share} with regular accuracy kept within {MOST_LOST:.0%}{doubt}."
        beyond = [row.method for row in met if row.beyond_ends[0] > 0]
        said = listed([_said(row) for row in sorted(met, key=lambda row: -row.reduction)])
        than = (
            f"; beyond a threshold on yes: {listed(beyond)}" if beyond else "; none does more than a threshold on yes"
        )
        return f"False yes ({rate}) is lowered by {said}, regular accuracy kept within {MOST_LOST:.0%}{than}{doubt}."

    def remarks(self) -> list[str]:
        about = self.run.method
        sizes = ", ".join(f"{len(ids)} {name}" for name, ids in self.prompts.items())
        clean = ", ".join(f"{name} {number(rate)}" for name, rate in self.baseline.items())
        return [
            f"questions: {sizes}; said by the untouched model: {clean}",
            f"settings chosen on seed {about['tuning_seed']}, figures of seed {self.run.seeds['task']}",
            *self.run.warnings,
        ]

    def table(self) -> list[list[str]]:
        return [self._line(row) for row in self.rows]

    def _line(self, row: Row) -> list[str]:
        drawn = _drawn(row.controls) if row.controls else "none"
        return [
            row.method, row.setting, number(row.false_yes), f"{number(row.reduction)} {interval(*row.reduction_ends)}",
            f"{number(row.regular, signed=True)} {interval(*row.regular_ends)}", number(row.present, signed=True),
            f"{number(row.companion, signed=True)} {interval(*row.companion_ends)}",
            f"{number(row.beyond, signed=True)} {interval(*row.beyond_ends)}", drawn, row.verdict, row.note,
        ]  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a method, draw (-1: the method itself), set and question: the margin."""
        import pandas as pd

        names = ["untouched", *(str(one["method"]) for one in self.methods)]
        parts = [
            self._part(name, kind, -1, values)
            for kind, found in self.margins.items()
            for name, values in zip(names, found, strict=True)
        ]
        parts += [
            self._part(key.rpartition("/")[0], key.rpartition("/")[2], draw, values)
            for key, found in self.controls.items()
            for draw, values in enumerate(found)
        ]
        return pd.concat(parts, ignore_index=True)

    def _part(self, name: str, kind: str, draw: int, values: Float[np.ndarray, " prompt"]) -> pd.DataFrame:
        import pandas as pd

        content = {"method": name, "draw": draw, "set": kind, "prompt_id": list(self.prompts[kind]), "margin": values}
        return pd.DataFrame(content)

    def plot(self) -> go.Figure:
        """Reduction of false yes and change of regular accuracy, method by method."""
        from interp.report.seeing_figures import study_figure

        return study_figure(self)

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        writer.write_rows(ROWS, self.to_frame())
        return {"methods": [dict(one) for one in self.methods]}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        frame = run.read_rows(ROWS).to_pandas()
        methods = tuple(run.manifest["methods"])
        order = ["untouched", *(one["method"] for one in methods)]
        own, drawn = frame[frame["draw"] < 0], frame[frame["draw"] >= 0]
        margins = {kind: np.stack([_values(own, name, kind) for name in order]) for kind in SETS}
        first = own[own["method"] == order[0]]
        prompts = {kind: tuple(first[first["set"] == kind]["prompt_id"]) for kind in SETS}
        controls = {
            f"{name}/{kind}": _draws(drawn, name, kind)
            for name in drawn["method"].unique()
            for kind in (ABSENT, REGULAR)
        }
        return {"methods": methods, "margins": margins, "controls": controls, "prompts": prompts}


def _drawn(controls: tuple[float, ...]) -> str:
    """What sets of other heads take away."""
    most = f"most {number(max(controls))}, " if len(controls) > 1 else ""
    return f"{number(float(np.mean(controls)))} ({most}{counted(len(controls), 'set')})"


def _said(row: Row) -> str:
    """A method with what it takes away, beside the best of its controls."""
    others = f" (other heads: up to {max(row.controls):.0%})" if row.controls else ""
    return f"{row.method} {row.reduction:.0%}{others}"


def _values(frame: pd.DataFrame, name: str, kind: str) -> np.ndarray:
    found: np.ndarray = frame[(frame["method"] == name) & (frame["set"] == kind)]["margin"].to_numpy(dtype=np.float64)
    return found


def _draws(frame: pd.DataFrame, name: str, kind: str) -> np.ndarray:
    part = frame[(frame["method"] == name) & (frame["set"] == kind)]
    return np.stack([one["margin"].to_numpy(dtype=np.float64) for _, one in part.groupby("draw")])
