"""The result of a head x variant sweep: rows of single swaps, and configurations that were verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import Evidence, judge, moments
from interp.circuits.prompt_results import ROWS, PromptRecord, PromptResult
from interp.circuits.results import RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.hooks.examples import Drop
from interp.hooks.interventions import Intervention
from interp.hooks.names import HeadId, parse_head
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError, suggest
from interp.swapping.classes import MaskClass, Nothing, read_class
from interp.swapping.found import Found, Verdict, judged
from interp.swapping.joint import edits_of
from interp.swapping.tables import frame, head_line, joint_frame
from interp.swapping.text import headline, remarks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

JOINT, MEAN = "configurations.parquet", "mean_z.safetensors"
EACH = ("correct", "recall", "output_error", "variation", "keys")
"""Fields beside `values` that hold a number for each label and prompt."""

ANSWERS = ("needed", "cheapest")


@dataclass(frozen=True, eq=False, repr=False)
class SwapResult(PromptResult):
    """Per-prompt metric with one head at a time under each mask class, and which heads need full attention.

    Effects are metric(clean) - metric(swapped): positive means that the head loses something by it.

    Attributes:
        run: provenance; method `loss`, `loss_of`, `sizes`, seed `evidence`.
        heads: measured heads; `asked` of them were asked about, the others are controls of single swaps.
        classes: mask classes, full attention last.
        prompts: kept prompts; `chooses` says which of them chose configurations, the others verified them.
        baseline, baseline_correct: metric and accuracy (answer has the largest logit; nan without answers), untouched.
        values, correct: the same with one swap; one row for each label, heads outermost, without full attention.
        recall, output_error, variation, keys: how near a class comes to the head's own attention, and the keys a query
            reads (`interp.swapping.closeness`), on the untouched model; rows as `values`.
        full_keys: keys that a query reads under full attention, for each head and prompt.
        controls: for each head the labels of heads of its layer that write about as much.
        needed: as few heads as can be in full, all others under `restricted`.
        cheapest: every head under the class that makes the whole cheapest.
        mean_z: what `nothing` puts in place of z [head d_head], by hook name; empty where that is zero.
    """

    kind: ClassVar[str] = "swap"
    columns: ClassVar[tuple[str, ...]] = (
        "head", "alone", "together", "keys read", "full needed", "restricted alone", "interval", "recall", "claimed",
    )  # fmt: skip
    numbers: ClassVar[tuple[str, ...]] = ("baseline", "baseline_correct", "values")

    run: RunInfo
    heads: tuple[str, ...]
    asked: tuple[str, ...]
    classes: tuple[MaskClass, ...]
    prompts: tuple[PromptRecord, ...]
    chooses: Bool[np.ndarray, " prompt"]
    baseline: Float[np.ndarray, " prompt"]
    baseline_correct: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "label prompt"]
    correct: Float[np.ndarray, "label prompt"]
    recall: Float[np.ndarray, "label prompt"]
    output_error: Float[np.ndarray, "label prompt"]
    variation: Float[np.ndarray, "label prompt"]
    keys: Float[np.ndarray, "label prompt"]
    full_keys: Float[np.ndarray, "head prompt"]
    controls: tuple[tuple[str, ...], ...]
    needed: Found
    cheapest: Found
    drops: tuple[Drop, ...] = ()
    mean_z: Mapping[str, Float[np.ndarray, "_ _"]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(one.name for one in self.classes)

    @property
    def labels(self) -> tuple[str, ...]:
        """`L2H1 sink+recent`, heads outermost."""
        return tuple(f"{head} {name}" for head in self.heads for name in self.names[:-1])

    def row_of(self, head: str, name: str) -> int:
        """The row of a head under a class.

        Raises:
            InterpError: E201 no such head or class.
        """
        label = f"{head} {name}"
        if label not in self.labels:
            raise InterpError("E201", f"no row {label!r}", fix=suggest(label, self.labels))
        return self.labels.index(label)

    @property
    def restricted(self) -> str:
        """The class of all heads that do not need full attention."""
        return str(self.run.method["restricted"])

    @property
    def effects(self) -> Float[np.ndarray, "label prompt"]:
        """metric(clean) - metric(swapped)."""
        effects: np.ndarray = self.baseline[None, :] - self.values
        return effects

    @cached_property
    def evidence(self) -> Evidence:
        """What all prompts say about each single swap, beside the same class on heads that write about as much."""
        width = len(self.classes) - 1
        at = {head: place for place, head in enumerate(self.heads)}
        controls = [
            tuple(at[other] * width + number for other in others) for others in self.controls for number in range(width)
        ]
        return judge(self.effects, self.baseline, controls, gate=self.has_chance, seed=self.run.seeds["evidence"])

    @cached_property
    def cost(self) -> Float[np.ndarray, "head class"]:
        """Mean keys that a query reads; full attention last."""
        swapped = self.keys.mean(1).reshape(len(self.heads), -1)
        return np.concatenate([swapped, self.full_keys.mean(1)[:, None]], axis=1)

    @property
    def alone(self) -> dict[str, str]:
        """For each head the cheapest class that, by itself, loses no more than the bound on the prompts that choose."""
        found: dict[str, int] = self.run.method["alone"]
        return {head: self.names[number] for head, number in found.items()}

    @property
    def configuration(self) -> dict[str, str]:
        """For each head its class in the cheapest configuration."""
        return self.classes_of(self.cheapest)

    @property
    def full_heads(self) -> tuple[str, ...]:
        """Heads that need full attention where all others are restricted."""
        return tuple(head for head, name in self.classes_of(self.needed).items() if name == self.names[-1])

    def classes_of(self, found: Found) -> dict[str, str]:
        return {head: self.names[number] for head, number in zip(self.asked, found.state, strict=True)}

    def edits(self, answer: str = "cheapest") -> tuple[Intervention, ...]:
        """What `model.edit` takes to run a configuration: 'cheapest' or 'needed'.

        Raises:
            InterpError: E201 another word.
        """
        if answer not in ANSWERS:
            raise InterpError("E201", f"no answer {answer!r}", fix=suggest(answer, ANSWERS))
        found: Found = getattr(self, answer)
        reference = reference_of(self.mean_z)
        classes = [one.filled(reference) if isinstance(one, Nothing) else one for one in self.classes]
        return edits_of(found.state, self.asked, classes)

    def losses(self, found: Found) -> Float[np.ndarray, "configuration prompt"]:
        """Loss of every prompt as it is bounded: accuracy, or the metric in parts of its clean mean."""
        if self.run.method["loss_of"] == "accuracy":
            return np.asarray(self.baseline_correct - found.correct)
        return np.asarray((self.baseline - found.values) / self.run.method["metric_scale"])

    def verdict(self, answer: str = "cheapest") -> Verdict:
        """What held-out prompts say about a configuration."""
        losses = self.losses(getattr(self, answer))[:, ~self.chooses]
        return judged(losses, float(self.run.method["loss"]), self.run.seeds["evidence"])

    def mean_keys(self, found: Found) -> float:
        """Keys that a query reads in a configuration, mean over the heads asked about."""
        at = [self.heads.index(head) for head in self.asked]
        return float(self.cost[at, list(found.state)].mean())

    def headline(self) -> str:
        """Which heads need full attention, and whether that is verified."""
        return headline(self)

    def remarks(self) -> list[str]:
        return remarks(self)

    def table(self, k: int = 8) -> list[list[str]]:
        """Heads that need full attention first, then by what restricting each alone takes."""
        rank = [self.row_of(head, self.restricted) for head in self.asked]
        size = np.nan_to_num(moments(self.effects)[1][rank])
        order = sorted(range(len(self.asked)), key=lambda i: (self.asked[i] not in self.full_heads, -abs(size[i])))
        return [head_line(self, self.asked[index]) for index in order[:k]]

    def to_frame(self) -> pd.DataFrame:
        """One row a head, class and prompt."""
        return frame(self)

    def plot(self) -> go.Figure:
        """Heat map of mean effects, heads down and classes across; a dot marks claimed ones."""
        from interp.swapping.figure import heatmap

        return heatmap(self)

    @property
    def head_ids(self) -> tuple[HeadId, ...]:
        return tuple(map(parse_head, self.heads))

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        """The usual tables, the configurations prompt by prompt, and mean z where a class needs it."""
        super().write_files(writer)
        writer.write_rows(JOINT, joint_frame(self))
        if self.mean_z:
            writer.write_tensors(MEAN, {name: np.ascontiguousarray(z) for name, z in self.mean_z.items()}, {})
        heads = [{"label": label, "controls": labels} for label, labels in zip(self.heads, self.controls, strict=True)]
        answers = {name: getattr(self, name).to_dict() for name in ANSWERS}
        classes = [one.to_dict() for one in self.classes]
        return {"heads": heads, "asked": self.asked, "classes": classes, "mean_z": bool(self.mean_z), **answers}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        stored = run.manifest
        heads = tuple(entry["label"] for entry in stored["heads"])
        mean_z = run.read_tensors(MEAN) if stored["mean_z"] else {}
        classes = tuple(read_class(data) for data in stored["classes"])
        labels = [f"{head} {one.name}" for head in heads for one in classes[:-1]]
        fields = cls.read_numbers(run, labels)
        n = len(fields["prompts"])
        table = run.read_rows(ROWS)
        columns = {name: table[name].to_numpy().astype(np.float64) for name in (*EACH, "full_keys")}
        full_keys = columns.pop("full_keys").reshape(len(heads), len(classes) - 1, n)[:, 0]
        each = {name: column.reshape(len(labels), n) for name, column in columns.items()}
        joint = run.read_rows(JOINT)
        answers = {name: _found(stored[name], joint, name, n) for name in ANSWERS}
        return {
            **fields,
            **each,
            **answers,
            "heads": heads,
            "asked": tuple(stored["asked"]),
            "classes": classes,
            "chooses": table["chooses"].to_numpy().astype(bool)[:n],
            "full_keys": full_keys,
            "controls": tuple(tuple(entry["controls"]) for entry in stored["heads"]),
            "mean_z": mean_z,
        }


def reference_of(mean_z: Mapping[str, Float[np.ndarray, "_ _"]]) -> Reference | None:
    """Mean z as an ablation takes it; None for zero."""
    import torch

    if not mean_z:
        return None
    return Reference(
        {name: torch.from_numpy(np.array(z)) for name, z in mean_z.items()}, "mean over prompts that choose"
    )


def _found(data: Mapping[str, Any], table: Any, name: str, n: int) -> Found:
    """The rows of an answer."""
    mine = np.array(table["answer"].to_pylist()) == name
    values, correct = (
        table[column].to_numpy().astype(np.float64)[mine].reshape(-1, n) for column in ("value", "correct")
    )
    return Found.from_dict(data, values, correct)
