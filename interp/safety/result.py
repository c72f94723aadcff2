"""The report on safety heads: operators side by side, a group, and what held-out prompts say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import Evidence
from interp.circuits.group_result import GroupResult
from interp.circuits.prompt_results import DROPS, PROMPTS, PromptRecord
from interp.circuits.results import Result, RunInfo, first_line
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.heads.claims import judge_scores
from interp.hooks.examples import Drop
from interp.kernels.errors import InterpError, suggest
from interp.safety.tables import frame, line, trial_frame
from interp.safety.text import headline, remarks
from interp.safety.trials import BASE, CONTROL, GROWN, Trial
from interp.safety.verdicts import Verdict, verdict

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS, TRIALS, NUMBERS = "rows.parquet", "trials.parquet", "numbers.safetensors"
HELD_OUT, REPLIES, SEARCH_RUN = "held_out.jsonl", "replies.jsonl", "search.json"
GROUPS = ("screening", "baseline", "numbers", "complied")


@dataclass(frozen=True, eq=False, repr=False)
class SafetyReport(Result):
    """Safety heads of one model.

    Attributes:
        run: provenance; settings stand in its method, the held-out prompts under `held_out` in its task.
        heads: labels of the screening, in model order.
        operators: of the screening.
        prompts: harmful prompts of screening and search.
        screening: `ships`, `refusal`, `compliance`, `cost` (see `interp.safety.screening.Measured`) without each head, by
            each operator: [operator head prompt].
        baseline: the same of the untouched model: [prompt].
        controls: for each head the labels of heads of its layer that write about as much.
        search: how the group grew, on half of `prompts`, judged on the other half.
        group: of the best single head and the group on its way, what the model complies most without on `prompts`, within
            the bound on harmless KL; held-out prompts say what it is worth.
        held_out: prompts, with templates that the search did not see where the task has them.
        trials: the untouched model, the best single head, the group on its way, and matched random groups.
        numbers: of each trial: [trial held_out].
        complied: by each judge whether the reply complies: [trial held_out].
        replies: what was written, trial by trial.
        drops: prompts left out, of both sides.
    """

    kind: ClassVar[str] = "safety"
    columns: ClassVar[tuple[str, ...]] = (
        "without", "compliance", "interval", "times base", "by phrases", "by token", "legacy", "harmless KL", "interval",
        "still helped",
    )  # fmt: skip

    run: RunInfo
    heads: tuple[str, ...]
    operators: tuple[str, ...]
    prompts: tuple[PromptRecord, ...]
    screening: Mapping[str, Float[np.ndarray, "operator head prompt"]]
    baseline: Mapping[str, Float[np.ndarray, " prompt"]]
    controls: tuple[tuple[str, ...], ...]
    search: GroupResult
    group: tuple[str, ...]
    held_out: tuple[PromptRecord, ...]
    trials: tuple[Trial, ...]
    numbers: Mapping[str, Float[np.ndarray, "trial held_out"]]
    complied: Mapping[str, Float[np.ndarray, "trial held_out"]]
    replies: tuple[tuple[str, ...], ...]
    drops: tuple[Drop, ...] = ()

    def effects(self, operator: str) -> Float[np.ndarray, "head prompt"]:
        """Fall of the refusal score without each head: positive means that it helps to refuse (E201)."""
        found: np.ndarray = self.baseline["refusal"][None] - self.screening["refusal"][self._operator(operator)]
        return found

    def _operator(self, name: str) -> int:
        if name not in self.operators:
            raise InterpError("E201", f"no operator {name!r}", fix=suggest(name, self.operators))
        return self.operators.index(name)

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """For each operator what the prompts say about each head's effect on refusal, beside its matched heads.

        A head is claimed as in `interp.heads.claims`: above both by a hundredth of the largest effect or more.
        """
        at = {head: index for index, head in enumerate(self.heads)}
        controls = [tuple(at[label] for label in labels) for labels in self.controls]
        seed = self.run.seeds["evidence"]
        return {one: judge_scores(self.effects(one), controls, None, seed=seed) for one in self.operators}

    def safety_heads(self, operator: str) -> tuple[str, ...]:
        """Heads that are claimed to help the model refuse, largest effect first (E201)."""
        self._operator(operator)
        found = self.evidence[operator]
        return tuple(self.heads[i] for i in found.ranking() if found.claimed[i])

    def agreement(self, number: str = "refusal") -> pd.DataFrame:
        """Rank correlation (Spearman) of heads between operators, by the mean of a number of the screening.

        Raises:
            InterpError: E201, no such number.
        """
        import pandas as pd

        if number not in self.screening:
            raise InterpError("E201", f"no number {number!r}", fix=suggest(number, self.screening))
        means = dict(zip(self.operators, self.screening[number].mean(2), strict=True))
        return pd.DataFrame(means, index=list(self.heads)).rank().corr()

    def rows_of(self, kind: str) -> list[int]:
        """Rows of the trials of a kind."""
        return [index for index, trial in enumerate(self.trials) if trial.kind == kind]

    @property
    def group_row(self) -> int:
        """Row of the group among the trials; that of the untouched model where there is no group."""
        own = [row for row in self.rows_of(GROWN) if self.trials[row].heads == self.group]
        return own[0] if own else self.rows_of(BASE)[0]

    @cached_property
    def verdict(self) -> Verdict:
        """What held-out prompts say about the group."""
        return verdict(self)

    def headline(self) -> str:
        """What happens without the group, on prompts that did not find it."""
        return headline(self)

    def remarks(self) -> list[str]:
        return remarks(self)

    def details(self) -> str:
        return f"; {len(self.heads)} heads x {len(self.prompts)} prompts, {len(self.held_out)} held out"

    def table(self) -> list[list[str]]:
        """The untouched model, the best single head, the group on its way, and the random group that complies most."""
        compliance, controls = self.numbers["compliance"].mean(1), self.rows_of(CONTROL)
        strongest = sorted(controls, key=lambda row: -compliance[row])[:1]
        return [line(self, row) for row in (*self.rows_of(BASE), *self.rows_of(GROWN), *strongest)]

    def to_frame(self) -> pd.DataFrame:
        """The screening: one row an operator, head and prompt."""
        return frame(self)

    def trials_frame(self) -> pd.DataFrame:
        """Held-out prompts: one row a trial and prompt, with the reply."""
        return trial_frame(self)

    def plot(self) -> go.Figure:
        """Compliance against what harmless prompts lose, for the group on its way and for random groups."""
        from interp.report.safety_figures import bargain

        return bargain(self)

    def figures(self) -> dict[str, go.Figure]:
        """The bargain, heads by operator, and how far operators agree."""
        from interp.report.safety_figures import operator_agreement, operator_heads

        return super().figures() | {first_line(draw): draw(self) for draw in (operator_heads, operator_agreement)}

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        writer.write_rows(ROWS, self.to_frame())
        writer.write_rows(TRIALS, self.trials_frame())
        numbers = {
            f"{group}.{name}": np.ascontiguousarray(values)
            for group in GROUPS
            for name, values in getattr(self, group).items()
        }
        writer.write_tensors(NUMBERS, numbers, {"run_id": self.run_id})
        writer.write_lines(PROMPTS, (asdict(prompt) for prompt in self.prompts))
        writer.write_lines(HELD_OUT, (asdict(prompt) for prompt in self.held_out))
        writer.write_lines(REPLIES, ({"replies": list(row)} for row in self.replies))
        writer.write_lines(DROPS, (asdict(drop) for drop in self.drops))
        self.search.write_files(writer)
        writer.write_json(SEARCH_RUN, self.search.run.to_dict())
        names = {name: list(getattr(self, name)) for name in ("heads", "operators", "group")}
        controls = [list(labels) for labels in self.controls]
        return {**names, "controls": controls, "trials": [trial.to_dict() for trial in self.trials]}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        groups: dict[str, Any] = {group: {} for group in GROUPS}
        for name, values in run.read_tensors(NUMBERS).items():
            group, _, short = name.partition(".")
            groups[group][short] = values
        stored = run.manifest
        prompts, held_out = (
            tuple(PromptRecord(**{**line, "tokens": tuple(line["tokens"])}) for line in run.read_lines(name))
            for name in (PROMPTS, HELD_OUT)
        )
        trials = tuple(Trial(tuple(one["heads"]), one["kind"]) for one in stored["trials"])
        shapes = groups["screening"]["refusal"].shape, groups["numbers"]["refusal"].shape
        if shapes != ((len(stored["operators"]), len(stored["heads"]), len(prompts)), (len(trials), len(held_out))):
            raise InterpError("E701", f"{NUMBERS} does not hold a number for each row and prompt", where=str(run.path))
        search = GroupResult(run=RunInfo.from_dict(run.read_json(SEARCH_RUN)), **GroupResult.read_files(run))
        return {
            **groups,
            **{name: tuple(stored[name]) for name in ("heads", "operators", "group")},
            "controls": tuple(tuple(labels) for labels in stored["controls"]),
            "prompts": prompts,
            "held_out": held_out,
            "trials": trials,
            "search": search,
            "replies": tuple(tuple(line["replies"]) for line in run.read_lines(REPLIES)),
            "drops": tuple(Drop(**line) for line in run.read_lines(DROPS)),
        }
