"""The result of token maps: numbers of every method and token, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import Evidence
from interp.circuits.prompt_results import CHANCE_IS_ZERO, DROPS, PROMPTS, PromptRecord
from interp.circuits.results import Result, RunInfo, first_line
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError, suggest
from interp.maps.curves import agreement, areas
from interp.maps.judging import Contest, Fooled, contest, fooled_rows, judge_fooled, judge_maps
from interp.maps.tables import frame, line
from interp.maps.text import headline, remarks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS, NUMBERS = "rows.parquet", "numbers.safetensors"
ARRAYS = ("baseline", "values", "moved_values", "moved_effects")
GROUPS = ("effects", "curves", "moves")
MEASURES = ("deletion", "insertion", "agreement")


@dataclass(frozen=True, eq=False, repr=False)
class TokenMaps(Result):
    """Token maps of one model on some prompts. Padding, and what was not measured, is nan.

    Attributes:
        run: provenance; the token that stands for none, and every method with its parameters, in its method.
        methods: labels; the last is the random map, the control of all others.
        prompts: kept prompts, in order.
        baseline: the metric of each prompt.
        tokens: that may be taken away: all but the one at which the answer is read.
        values: importance of each token.
        moved_values: the same where attention was moved, see `moves`.
        effects: by way ('knockout', 'neutral'), what the metric loses without each token.
        moved_effects: the same where attention was moved, by the first way.
        curves: by way, the metric as tokens go (deletion) and as they come back (insertion), in equal steps.
        moves: where attention was moved: position of the `true` token and of the `decoy`, `distance` (total variation of
            rows), `change` of the output (nats, or 1 - cosine), mean attention to both before and after.
        drops: prompts left out.
    """

    kind: ClassVar[str] = "token-maps"
    columns: ClassVar[tuple[str, ...]] = (
        "method", "deletion", "interval", "insertion", "agreement", "random map", "q", "beats random", "fooled"
    )  # fmt: skip

    run: RunInfo
    methods: tuple[str, ...]
    prompts: tuple[PromptRecord, ...]
    baseline: Float[np.ndarray, " prompt"]
    tokens: Bool[np.ndarray, "prompt pos"]
    values: Float[np.ndarray, "method prompt pos"]
    moved_values: Float[np.ndarray, "method prompt pos"]
    effects: Mapping[str, Float[np.ndarray, "prompt pos"]]
    moved_effects: Float[np.ndarray, "prompt pos"]
    curves: Mapping[str, Float[np.ndarray, "curve method step prompt"]]
    moves: Mapping[str, Float[np.ndarray, " prompt"]]
    drops: tuple[Drop, ...] = ()

    @property
    def ways(self) -> tuple[str, ...]:
        """How tokens were taken away; claims are made by the first."""
        return tuple(self.run.method["ways"])

    @property
    def metric(self) -> str:
        return str(self.run.task["metric"])

    @property
    def control(self) -> int:
        """Number of the random map."""
        return len(self.methods) - 1

    def index(self, method: str) -> int:
        """Number of a method (E201)."""
        if method not in self.methods:
            raise InterpError("E201", f"no method {method!r}", fix=suggest(method, self.methods))
        return self.methods.index(method)

    @cached_property
    def scores(self) -> dict[str, Float[np.ndarray, "method prompt"]]:
        """By `<measure> <way>`: areas of both curves in units of the metric, and rank correlation with leaving tokens out."""
        found: dict[str, np.ndarray] = {}
        for way in self.ways:
            deletion, insertion = areas(self.curves[way])
            ranks = agreement(self.values, self.effects[way], self.tokens)
            for index, about in enumerate(self.run.method["methods"]):
                if about["method"] == "leave-one-out" and about["way"] == way:
                    ranks[index] = np.nan  # it is what the others are held against
            found |= dict(zip((f"{name} {way}" for name in MEASURES), (deletion, insertion, ranks), strict=True))
        return found

    @cached_property
    def evidence(self) -> Evidence:
        """Every score beside that of the random map; rows are measures in the order of `scores`, methods innermost."""
        gate = self.metric in CHANCE_IS_ZERO
        return judge_maps(self.scores, self.baseline, self.control, gate=gate, seed=self.run.seeds["evidence"])

    def row(self, measure: str, method: int) -> int:
        """Row of the evidence."""
        return list(self.scores).index(measure) * len(self.methods) + method

    @cached_property
    def contest(self) -> Contest:
        """Methods against each other, by deletion in the first way."""
        scores = self.scores[f"{MEASURES[0]} {self.ways[0]}"]
        return contest(scores, range(self.control), seed=self.run.seeds["evidence"])

    @cached_property
    def followed(self) -> Float[np.ndarray, "method prompt"]:
        """1 where a map follows moved attention though the answer does not, see `fooled_rows`; nan where nothing is told."""
        moved = np.isfinite(self.moves["true"])
        found = np.full(self.values.shape[:2], np.nan)
        if moved.any():
            true, decoy = (self.moves[name][moved].astype(int) for name in ("true", "decoy"))
            found[:, moved] = fooled_rows(
                self.values[:, moved], self.moved_values[:, moved], self.moved_effects[moved], true, decoy
            )
        return found

    @cached_property
    def fooled(self) -> Fooled:
        """How often, with false-discovery control over methods."""
        return judge_fooled(self.followed, seed=self.run.seeds["evidence"])

    def headline(self) -> str:
        """Which map to believe, how many are better than chance, and which are fooled."""
        return headline(self)

    def remarks(self) -> list[str]:
        return remarks(self)

    def details(self) -> str:
        return f"; {len(self.methods)} methods x {len(self.prompts)} prompts"

    def table(self, k: int = 20) -> list[list[str]]:
        """Best deletion first, the random map last."""
        order = [*self.contest.order, *(i for i in range(len(self.methods)) if i not in self.contest.order)]
        return [line(self, method) for method in order[:k]]

    def full_table(self) -> list[list[str]]:
        return self.table(len(self.methods))

    def to_frame(self) -> pd.DataFrame:
        """One row a method, prompt and token."""
        return frame(self)

    def plot(self) -> go.Figure:
        """Deletion curves of all methods, the random map in grey."""
        from interp.report.map_figures import deletion_curves

        return deletion_curves(self)

    def figures(self) -> dict[str, go.Figure]:
        """The curves, and the maps of the first prompt."""
        from interp.report.map_figures import token_heatmap

        return super().figures() | {first_line(token_heatmap): token_heatmap(self)}

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        writer.write_rows(ROWS, self.to_frame())
        numbers = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        numbers["tokens"] = self.tokens.astype(np.uint8)
        for group in GROUPS:
            found = getattr(self, group).items()
            numbers |= {f"{group}.{name}": np.ascontiguousarray(values) for name, values in found}
        writer.write_tensors(NUMBERS, numbers, {"run_id": self.run_id})
        writer.write_lines(PROMPTS, (asdict(prompt) for prompt in self.prompts))
        writer.write_lines(DROPS, (asdict(drop) for drop in self.drops))
        return {"methods": list(self.methods)}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        tensors, groups = run.read_tensors(NUMBERS), {group: dict[str, np.ndarray]() for group in GROUPS}
        for name, values in tensors.items():
            group, dot, short = name.partition(".")
            if dot:
                groups[group][short] = values
        prompts = tuple(PromptRecord(**{**line, "tokens": tuple(line["tokens"])}) for line in run.read_lines(PROMPTS))
        methods = tuple(run.manifest["methods"])
        if tensors["values"].shape[:2] != (len(methods), len(prompts)):
            raise InterpError("E701", f"{NUMBERS} does not hold a row for each method and prompt", where=str(run.path))
        return {
            **groups,
            **{name: tensors[name] for name in ARRAYS},
            "tokens": tensors["tokens"].astype(bool),
            "methods": methods,
            "prompts": prompts,
            "drops": tuple(Drop(**line) for line in run.read_lines(DROPS)),
        }
