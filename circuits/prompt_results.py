"""`PromptResult`: the base of results that hold a number for each part of a model and each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import Effect, Evidence
from interp.circuits.results import Result
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import interval, number
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError

ROWS, PROMPTS, DROPS = "rows.parquet", "prompts.jsonl", "drops.jsonl"
TOP = 5

CHANCE_IS_ZERO = frozenset({"logit_diff", "prob_diff"})
"""Metrics that are 0 on average where a model cannot tell answer from distractor; others have no known chance level."""


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


class PromptResult(Result):
    """What a subclass adds are its fields, `labels`, `evidence`, `headline`, `to_frame` and `plot`.

    Attributes:
        numbers: fields that hold one number a prompt, and `values`.
        alike: entries of the run's method in which two runs must agree for their effects to be the same thing.
        prompts: kept prompts, in order.
        values: one row a label.
        drops: prompts left out, with reasons.
    """

    columns: ClassVar[tuple[str, ...]] = ("head", "effect", "interval", "controls", "q", "claimed", "note")
    numbers: ClassVar[tuple[str, ...]]
    alike: ClassVar[tuple[str, ...]] = ()

    prompts: tuple[PromptRecord, ...]
    values: Float[np.ndarray, "label prompt"]
    drops: tuple[Drop, ...]

    def __post_init__(self) -> None:
        for name in self.numbers:
            found = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, np.where(np.isfinite(found), found, np.nan))
        assert self.values.shape == (len(self.labels), len(self.prompts)), f"values of shape {self.values.shape}"
        assert len(set(self.labels)) == len(self.labels), "two rows have one label"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the rows of `values`."""
        raise NotImplementedError

    @property
    def evidence(self) -> Evidence:
        """What the numbers say about each label; see `interp.circuits.evidence` for what a claim is."""
        raise NotImplementedError

    @property
    def metric(self) -> str:
        """Name of the metric; higher is better in all of them."""
        return str(self.run.task["metric"])

    @property
    def has_chance(self) -> bool:
        """Whether the metric is 0 by chance, so that a model can be asked first whether it does the task."""
        return self.metric in CHANCE_IS_ZERO

    @property
    def effects(self) -> Float[np.ndarray, "label prompt"]:
        """What is tested: a number for each label and prompt, positive where the part helps."""
        raise NotImplementedError

    @property
    def n_not_finite(self) -> int:
        """Numbers left out of every mean and test because they are not finite."""
        return int((~np.isfinite(self.effects)).sum())

    def row(self, index: int) -> Effect:
        """One label's numbers."""
        return self.evidence.row(index, self.labels[index])

    def top(self, k: int = TOP) -> tuple[Effect, ...]:
        """Claimed ones first, then by size of the mean effect, whichever its sign."""
        return tuple(self.row(index) for index in self.evidence.ranking()[:k])

    def table(self, k: int = TOP) -> list[list[str]]:
        return [self.line(row) for row in self.top(k)]

    def full_table(self) -> list[list[str]]:
        return self.table(len(self.labels))

    def line(self, row: Effect) -> list[str]:
        """One line of the printed table, in the order of `columns`."""
        mean, control = number(row.mean, signed=True), number(row.control_mean, signed=True)
        verdict = "yes" if row.claimed else "no"
        return [row.label, mean, interval(row.ci_low, row.ci_high), control, number(row.q), verdict, row.note]

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        writer.write_rows(ROWS, self.to_frame())
        writer.write_lines(PROMPTS, (asdict(prompt) for prompt in self.prompts))
        writer.write_lines(DROPS, (asdict(drop) for drop in self.drops))
        return {}

    def write_arrays(self, writer: RunWriter, name: str, key: str, axes: str) -> list[str]:
        """Write the arrays that a field holds for some prompts; the ids of these prompts, in order."""
        arrays: Mapping[str, np.ndarray] = getattr(self, name)
        shown = [prompt.id for prompt in self.prompts if prompt.id in arrays]
        if shown:
            tensors = {f"{key}.{index}": np.ascontiguousarray(arrays[prompt]) for index, prompt in enumerate(shown)}
            about = {"run_id": self.run_id, "axes": axes, "prompts": shown}
            writer.write_tensors(f"{name}.safetensors", tensors, about)
        return shown

    @classmethod
    def read_numbers(cls, run: RunFolder, labels: Sequence[str]) -> dict[str, Any]:
        """Prompts, drops and the fields of `numbers` (E701)."""
        prompts = tuple(PromptRecord(**{**line, "tokens": tuple(line["tokens"])}) for line in run.read_lines(PROMPTS))
        table = run.read_rows(ROWS)
        expected = [(label, prompt.id) for label in labels for prompt in prompts]
        found = list(zip(table["label"].to_pylist(), table["prompt_id"].to_pylist(), strict=True))
        if found != expected or not expected:
            what = f"{ROWS} does not hold one row for each {cls.columns[0]} and prompt"
            raise InterpError("E701", what, where=str(run.path))
        drops = tuple(Drop(**line) for line in run.read_lines(DROPS))
        fields: dict[str, Any] = {"prompts": prompts, "drops": drops}
        for name in cls.numbers:
            column = table["value" if name == "values" else name].to_numpy().astype(np.float64)
            rows = column.reshape(len(labels), len(prompts))
            fields[name] = rows if name == "values" else rows[0]
        return fields


def read_arrays(run: RunFolder, name: str, key: str) -> dict[str, np.ndarray]:
    """What `PromptResult.write_arrays` wrote."""
    shown = run.manifest[name]
    tensors = run.read_tensors(f"{name}.safetensors") if shown else {}
    return {prompt: tensors[f"{key}.{index}"] for index, prompt in enumerate(shown)}
