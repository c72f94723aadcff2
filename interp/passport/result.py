"""The passport of a head as a result: verdicts, contradictions, stability, and a picture of its attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.circuits.results import Result, RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import counted
from interp.kernels.errors import InterpError, suggest
from interp.passport.flags import Flag, flags_of
from interp.passport.labels import Label, labels_of
from interp.passport.reading import Reading
from interp.passport.sink import SinkVerdict
from interp.passport.stability import Stability, stability
from interp.passport.tables import frame, line, summary
from interp.passport.text import headline, remarks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS, READINGS, NUMBERS = "rows.parquet", "readings.jsonl", "numbers.safetensors"
SHOWN = ("pattern", "by_distance", "even")


@dataclass(frozen=True, eq=False, repr=False)
class Passport(Result):
    """Every verdict on one head.

    Attributes:
        run: provenance; read here: method `head`, `baseline`, `can_claim`, `controls`.
        readings: question by question, the main way of drawing prompts first.
        sink: where it rests; None where that could not be asked (`left_out` says why).
        left_out: scorer or other question -> why there is no verdict.
        tokens: of the prompt whose pattern is shown.
        pattern: attention of the head there; empty where the model does not show it.
        by_distance: mean attention to the key 0, 1, 2, ... tokens before a query; empty likewise.
        even: what even attention would give there.
    """

    kind: ClassVar[str] = "passport"
    columns: ClassVar[tuple[str, ...]] = (
        "question", "value", "interval", "chance", "compared", "q", "claimed", "rank", "stable", "range", "prompts",
    )  # fmt: skip
    unasked: ClassVar[frozenset[str]] = frozenset({"seconds", "baseline", "can_claim", "controls"})

    run: RunInfo
    readings: tuple[Reading, ...]
    sink: SinkVerdict | None
    left_out: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    pattern: Float[np.ndarray, "query_pos key_pos"] = field(default_factory=lambda: np.zeros((0, 0)))
    by_distance: Float[np.ndarray, " offset"] = field(default_factory=lambda: np.zeros(0))
    even: Float[np.ndarray, " offset"] = field(default_factory=lambda: np.zeros(0))

    @property
    def head(self) -> str:
        """Its label."""
        return str(self.run.method["head"])

    @property
    def baseline(self) -> float:
        """Mean metric of the untouched model on the main prompts; nan where nothing was ablated."""
        found = self.run.method["baseline"]
        return float("nan") if found is None else float(found)

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """Ways of drawing prompts, the main one first."""
        return tuple(dict.fromkeys(one.setting for one in self.readings))

    @cached_property
    def main(self) -> tuple[Reading, ...]:
        """Readings of the main way."""
        return tuple(one for one in self.readings if one.setting == self.settings[0])

    def reading(self, question: str) -> Reading:
        """The main reading of a question (E201)."""
        known = {one.question: one for one in self.main}
        if question not in known:
            fix = self.left_out.get(question, suggest(question, known))
            raise InterpError("E201", f"no verdict on {question!r}", where=f"passport of {self.head}", fix=fix)
        return known[question]

    def stability(self, question: str) -> Stability:
        """A question under all ways of drawing prompts (E201)."""
        self.reading(question)
        return stability([one for one in self.readings if one.question == question])

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """What the head may be called, and why."""
        return labels_of(self.main, self.sink)

    @cached_property
    def flags(self) -> tuple[Flag, ...]:
        """Where verdicts contradict each other."""
        return flags_of(self.main, self.readings, self.baseline, can_claim=bool(self.run.method["can_claim"]))

    def headline(self) -> str:
        """What it is called, what its ablation costs, and how many contradictions there are."""
        return headline(self)

    def about(self) -> str:
        return f"{self.head}, {super().about()}"

    def details(self) -> str:
        return f"; {counted(len(self.main), 'verdict')}, {counted(len(self.settings), 'setting')}"

    def remarks(self) -> list[str]:
        return remarks(self)

    def table(self) -> list[list[str]]:
        return [line(self, one) for one in self.main]

    def to_frame(self) -> pd.DataFrame:
        """One row a question, setting and prompt."""
        return frame(self)

    def summary_frame(self) -> pd.DataFrame:
        """One row a question and setting: value, interval, chance, rank, and whether it is claimed."""
        return summary(self)

    def plot(self) -> go.Figure:
        """Everything on one page."""
        from interp.report.passport_figures import passport_figure

        return passport_figure(self)

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        writer.write_rows(ROWS, self.to_frame())
        writer.write_lines(READINGS, (one.to_dict() for one in self.readings))
        numbers = {name: np.ascontiguousarray(getattr(self, name), dtype=np.float64) for name in SHOWN}
        kept = {name: values for name, values in numbers.items() if values.size}
        if kept:
            writer.write_tensors(NUMBERS, kept, {"run_id": self.run_id})
        return {
            "sink": None if self.sink is None else self.sink.to_dict(),
            "left_out": dict(self.left_out), "tokens": list(self.tokens), "numbers": sorted(kept),
            "labels": [asdict(one) for one in self.labels], "flags": [asdict(one) for one in self.flags],
        }  # fmt: skip

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        stored, rows = run.read_lines(READINGS), run.read_rows(ROWS)
        ids = [prompt for one in stored for prompt in one["prompts"]]
        if ids != rows["prompt_id"].to_pylist():
            raise InterpError("E701", f"{ROWS} does not hold a row for each verdict and prompt", where=str(run.path))
        values, chances = (rows[name].to_numpy().astype(np.float64) for name in ("value", "chance"))
        ends = np.cumsum([len(one["prompts"]) for one in stored])[:-1]
        parts = zip(stored, np.split(values, ends), np.split(chances, ends), strict=True)
        sink = run.manifest["sink"]
        return {
            "readings": tuple(Reading.from_dict(*part) for part in parts),
            "sink": None if sink is None else SinkVerdict.from_dict(sink),
            "left_out": run.manifest["left_out"],
            "tokens": tuple(run.manifest["tokens"]),
            **(run.read_tensors(NUMBERS) if run.manifest["numbers"] else {}),
        }
