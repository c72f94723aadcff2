"""What the ablation of heads costs under several operators, from one sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from interp.ablation.asking import choose_metric, task_record, tokenised
from interp.ablation.settings import OPERATORS, Settings
from interp.ablation.shared import Controls, Shared
from interp.circuits.evidence import judge
from interp.circuits.prompt_results import CHANCE_IS_ZERO
from interp.hooks.interventions import Ablate
from interp.hooks.metrics import Metric
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.hooks.probe import CanaryRow, canary
from interp.kernels.errors import InterpError, suggest
from interp.passport.reading import ABLATION, Reading, of_effect
from interp.passport.scoring import misfit
from interp.passport.settings import Setting
from interp.sweeps.compute import run_units
from interp.sweeps.job import make_work
from interp.sweeps.units import cut

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ASKED = ("zero", "mean", "resample", "uniform")


@dataclass(frozen=True, eq=False)
class Effects:
    """What the sweep of one setting gave.

    Attributes:
        readings: of each head, one an operator.
        controls: matched heads of each.
        baseline: mean metric of the untouched model.
        does_task: whether that is beyond chance; True where the metric has no known chance.
        can_claim: whether there were prompts enough for any claim.
        record: of the task, as runs keep it.
        pairs: the prompts.
        proof: that edits land; empty where that was proven under another setting.
        notes: full sentences.
        left_out: operator -> why it was not asked.
    """

    readings: Mapping[str, tuple[Reading, ...]]
    controls: Mapping[str, tuple[str, ...]]
    baseline: float
    does_task: bool
    can_claim: bool
    record: dict[str, object]
    pairs: Pairs
    proof: tuple[CanaryRow, ...]
    notes: tuple[str, ...]
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ablations:
    """Ablation of heads of one tower and of their matched controls, under all operators in one sweep."""

    model: HookedModel
    heads: tuple[HeadId, ...]
    operators: tuple[str, ...]
    n_controls: int
    batch_size: int
    seed: int
    truncate: bool

    def __post_init__(self) -> None:
        for name in self.operators:
            Settings(self.labels, name)
        if not self.operators or len(set(self.operators)) < len(self.operators):
            fix = suggest("", OPERATORS)
            raise InterpError("E205", f"operators {list(self.operators)}", where="passport", fix=fix)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(head.label for head in self.heads)

    def run(self, setting: Setting, *, prove: bool) -> Effects:
        """Effects on the metric of the setting's task.

        Args:
            prove: try first that edits land.

        Raises:
            InterpError: as `interp.ablate`, but for operators that do not fit.
        """
        metric = choose_metric(self.model, None, setting.task)
        found = setting.task.examples(self.model.tokenizer)
        pairs, left_out = self._read(setting, found.examples, metric)
        proof = self._proven(pairs, left_out) if prove else ()
        operators = tuple(name for name in self.operators if name not in left_out)
        shared = Shared(self.model, pairs, metric, self.batch_size)
        controls = Controls.match(shared, self.heads, self.n_controls)
        baseline, values = self._swept(shared, controls.measured, operators)
        prompts = tuple(example.id for example in pairs.examples)
        effects = baseline[None] - values
        n, matched = len(operators), _matched(controls, len(operators))
        evidence = judge(effects, baseline, matched, gate=metric.name in CHANCE_IS_ZERO, seed=self.seed)
        readings = {
            head.label: tuple(
                of_effect(
                    f"{ABLATION}: {name}", ABLATION, setting.name, setting.task.name, evidence=evidence,
                    row=controls.measured.index(head) * n + place, effects=effects, prompts=prompts,
                )
                for place, name in enumerate(operators)
            )
            for head in self.heads
        }  # fmt: skip
        others = dict(zip((head.label for head in controls.measured), controls.labels, strict=True))
        return Effects(
            readings, {label: others[label] for label in self.labels}, float(np.nanmean(baseline)), evidence.does_task, evidence.can_claim,
            task_record(setting.task, found, pairs, metric), pairs, proof,
            (*found.notes, *pairs.warnings, *controls.notes), left_out,
        )  # fmt: skip

    def _read(self, setting: Setting, examples: Sequence[object], metric: Metric) -> tuple[Pairs, dict[str, str]]:
        """The prompts, with their corrupt twins where resampling can have them."""
        cutting = {"truncate": self.truncate, "first_token": False}
        if "resample" in self.operators:
            try:
                return tokenised(self.model, setting.task, examples, metric, "resample", **cutting), {}
            except InterpError as error:
                why = {"resample": misfit(error)}
                return tokenised(self.model, setting.task, examples, metric, "", **cutting), why
        return tokenised(self.model, setting.task, examples, metric, "", **cutting), {}

    def _proven(self, pairs: Pairs, left_out: dict[str, str]) -> tuple[CanaryRow, ...]:
        """A canary for each hook point; operators at points that the model does not have are left out."""
        points: dict[str, list[str]] = {}
        for name in self.operators:
            points.setdefault(Settings(self.labels, name).point, []).append(name)
        rows: list[CanaryRow] = []
        for point, names in points.items():
            try:
                rows += canary(self.model, point, self.heads, pairs.clean)
            except InterpError as error:
                left_out.update(dict.fromkeys(names, misfit(error)))
        return tuple(rows)

    def _swept(
        self, shared: Shared, heads: tuple[HeadId, ...], operators: tuple[str, ...]
    ) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "variant prompt"]]:
        """Metric of the untouched model, and under every operator for every head, heads outermost."""
        of = {name: dict(shared.references(heads, name)) for name in operators}
        variants = tuple(
            Ablate(
                heads=(head,), operator=Settings((head.label,), name).bare_operator, reference=of[name][head]
            )
            for head in heads
            for name in operators
        )  # fmt: skip
        work = make_work(self.model, shared.question, variants, self.batch_size)
        baseline = work.baseline()
        units = cut(len(shared.pairs), self.batch_size, [head.layer for head in heads for _ in operators])
        values = np.empty((len(variants), len(shared.pairs)))
        for unit in units:
            (table,), _ = run_units(work, [unit])
            values[unit.first : unit.last, unit.start : unit.stop] = table
        return baseline, torch.from_numpy(values).nan_to_num(posinf=np.nan, neginf=np.nan, nan=np.nan).numpy()


def _matched(controls: Controls, n: int) -> list[tuple[int, ...]]:
    """Rows that each row is compared with: its head's controls under the same of n operators."""
    place = {head.label: index for index, head in enumerate(controls.measured)}
    return [
        tuple(place[label] * n + operator for label in labels) for labels in controls.labels for operator in range(n)
    ]
