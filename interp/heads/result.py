"""The result of a scorer: the score of every head on every prompt, and which heads stand out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import Effect, Evidence
from interp.circuits.prompt_results import PromptRecord, PromptResult
from interp.circuits.results import RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import counted, interval, listed, number
from interp.heads.claims import judge_draws, judge_scores
from interp.heads.parts import NOUNS, parse_part
from interp.hooks.examples import Drop

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(PromptResult):
    """One number a head and prompt, beside what chance gives.

    A head is claimed when its score is above chance and above the mean of the other heads of its layer by a hundredth of
    what is possible or more, tested over prompts with false-discovery control (see `interp.heads.claims`); heads that are
    alone in their layer are compared with all others. Scores of weights have one column, and are held against random draws.

    Attributes:
        run: provenance; read here: model `name`, task `name`, method `scorer`, `says`, `chance`, `ceiling`, `kernel`,
            `draws`, seed `evidence`.
        heads: labels, in model order.
        prompts: kept prompts, in order.
        values: the score; nan where it is not defined.
        null: what chance gives for the same head and prompt.
        drops: prompts left out, with reasons.
        p: of each head, for scores of weights; empty otherwise.
    """

    kind = "scores"
    numbers = ("values",)
    columns = ("head", "score", "interval", "chance", "others", "q", "claimed", "note")
    unasked = frozenset({"kernel"})
    alike = ("scorer",)

    run: RunInfo
    heads: tuple[str, ...]
    prompts: tuple[PromptRecord, ...]
    values: Float[np.ndarray, "head prompt"]
    null: Float[np.ndarray, "head prompt"]
    drops: tuple[Drop, ...] = ()
    p: tuple[float, ...] = field(default=())

    @property
    def labels(self) -> tuple[str, ...]:
        return self.heads

    @property
    def effects(self) -> Float[np.ndarray, "head prompt"]:
        """Scores less chance."""
        return self.values - self.null

    @property
    def ceiling(self) -> float | None:
        """The most a head can score; None where nothing bounds it."""
        found = self.run.method["ceiling"]
        return None if found is None else float(found)

    @property
    def stderr(self) -> Float[np.ndarray, " head"]:
        """Standard error of each head's mean score over chance, over prompts; nan for scores of weights."""
        return self.evidence.standard_error

    @property
    def n_kept(self) -> int:
        return len(self.prompts)

    @property
    def n_total(self) -> int:
        """Prompts that were asked for, kept or not."""
        return len(self.prompts) + len(self.drops)

    @property
    def drop_reasons(self) -> dict[str, int]:
        """Reason -> how many prompts were left out for it."""
        return dict(Counter(drop.reason for drop in self.drops))

    @property
    def axis(self) -> str:
        """What a row is: 'query_head', where key/value heads are shared too, or 'expert'."""
        return str(self.run.method.get("axis", "query_head"))

    @property
    def noun(self) -> str:
        """What one row is called."""
        return NOUNS[self.axis]

    @property
    def operator(self) -> str:
        """What was done to heads to get the score; '' where nothing was."""
        return str(self.run.method["operator"])

    @property
    def variant(self) -> str:
        """'paper', or 'official-code' where that computes something else."""
        return str(self.run.method["variant"])

    @property
    def kernel(self) -> str:
        """Backend that computed attention; '' where none did."""
        return str(self.run.method["kernel"])

    @property
    def data_hash(self) -> str:
        """SHA-256 over the tokens of all kept prompts; '' for scores of weights."""
        return str(self.run.task.get("tokens_sha256", ""))

    @property
    def model_hash(self) -> dict[str, str]:
        """File -> SHA-256 of the weights; for a model made in memory, one digest over them all."""
        return dict(self.run.model["weights_sha256"])

    @cached_property
    def evidence(self) -> Evidence:
        """Of scores less chance."""
        if self.p:
            return judge_draws(self.effects, np.array(self.p), int(self.run.method["draws"]))
        most = None if self.ceiling is None else self.ceiling - self.null
        return judge_scores(self.effects, self._others(), most, seed=self.run.seeds["evidence"])

    def _others(self) -> list[tuple[int, ...]]:
        """The other heads of each head's layer, or all others where it is alone there."""
        layers = [(parse_part(label).tower, parse_part(label).layer) for label in self.heads]
        every = range(len(layers))
        same = [
            tuple(other for other in every if layers[other] == own and other != index)
            for index, own in enumerate(layers)
        ]
        return [found or tuple(other for other in every if other != index) for index, found in enumerate(same)]

    @property
    def claimed(self) -> Bool[np.ndarray, " head"]:
        """Heads that stand out upwards."""
        return self.evidence.claimed

    @property
    def mean(self) -> Float[np.ndarray, " head"]:
        """Mean score over the prompts where it is defined."""
        return _mean(self.values)

    def top(self, k: int = 5) -> tuple[Effect, ...]:
        """Claimed ones first, then by score."""
        score = np.nan_to_num(self.mean, nan=-np.inf)
        order = sorted(range(len(self.heads)), key=lambda index: (not self.claimed[index], -score[index]))
        return tuple(self.row(index) for index in order[:k])

    def line(self, row: Effect) -> list[str]:
        index = self.heads.index(row.label)
        chance = float(_mean(self.null)[index])
        span = interval(row.ci_low + chance, row.ci_high + chance)
        others = number(row.control_mean + chance)
        verdict = "yes" if self.claimed[index] else "no"
        return [row.label, number(self.mean[index]), span, number(chance), others, number(row.q), verdict, row.note]

    def headline(self) -> str:
        """One sentence: which heads do this, or that none can be told from chance."""
        name, says = self.run.method["scorer"], self.run.method["says"]
        n = int(self.claimed.sum())
        if n:
            named = listed([f"{row.label} {number(self.mean[self.heads.index(row.label)])}" for row in self.top(n)])
            return f"{n} of {counted(len(self.heads), self.noun)} above chance as {name} ({says}): {named}."
        if not self.evidence.can_claim:
            return f"Too few {'draws' if self.p else 'prompts'} for a claim: no {name} {self.noun}."
        return f"No {self.noun} can be told from chance as {name} ({says})."

    def details(self) -> str:
        size = counted(len(self.heads), self.noun) + ("" if self.p else f" x {counted(len(self.prompts), 'prompt')}")
        dropped = f", {counted(len(self.drops), 'prompt')} dropped" if self.drops else ""
        return f", {self.run.method['scorer']}; {size}{dropped}"

    def remarks(self) -> list[str]:
        most = "" if self.ceiling is None else f"; most possible: {number(self.ceiling)}"
        return [f"chance: {self.run.method['chance']}{most}"]

    def to_frame(self) -> pd.DataFrame:
        """One row a head and prompt, heads outermost."""
        import pandas as pd

        heads = [parse_part(label) for label in self.heads]
        n_heads, n_prompts = self.values.shape
        columns: dict[str, Any] = {
            "run_id": self.run_id,
            "model": self.run.model["name"],
            "task": self.run.task["name"],
            "scorer": self.run.method["scorer"],
            "prompt_id": [prompt.id for prompt in self.prompts] * n_heads,
            "label": [label for label in self.heads for _ in range(n_prompts)],
            "layer": np.repeat(np.array([head.layer for head in heads], dtype=np.int64), n_prompts),
            "head": np.repeat(np.array([head.head for head in heads], dtype=np.int64), n_prompts),
            "value": self.values.ravel(),
            "null": self.null.ravel(),
        }
        return pd.DataFrame(columns, index=range(self.values.size))

    def plot(self) -> go.Figure:
        """Heat map of mean scores, layer by head; a dot marks claimed heads."""
        from interp.report.score_figures import score_heatmap

        return score_heatmap(self)

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        super().write_files(writer)
        return {"heads": list(self.heads), "p": [None if np.isnan(one) else one for one in self.p]}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        heads = tuple(run.manifest["heads"])
        fields = cls.read_numbers(run, heads)
        null = run.read_rows("rows.parquet")["null"].to_numpy().astype(np.float64)
        p = tuple(float("nan") if one is None else one for one in run.manifest["p"])
        return {**fields, "heads": heads, "null": null.reshape(len(heads), -1), "p": p}


def _mean(values: Float[np.ndarray, "head prompt"]) -> Float[np.ndarray, " head"]:
    """Mean of each row's finite values; nan where there is none."""
    kept = np.isfinite(values)
    total: np.ndarray = np.where(kept, values, 0).sum(1) / np.maximum(kept.sum(1), 1)
    return np.where(kept.any(1), total, np.nan)
