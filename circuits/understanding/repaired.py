"""How a repair is judged, and what is found."""

from __future__ import annotations

from dataclasses import dataclass

from interp.circuits.group_result import Estimate
from interp.circuits.judging.findings import Findings
from interp.circuits.tables import Tabled, interval, listed, number
from interp.hooks.metrics import Metric

RUNS = UNTOUCHED, REPAIRED, UNIFORM, RANDOM = ("untouched", "repaired", "uniform", "random heads")


@dataclass(frozen=True)
class Repairing:
    """How a repair is judged.

    Attributes:
        accuracy: what is scored beside the question's metric.
        n_controls: random sets of heads.
        level: 1 - coverage of the intervals.
        batch_size: prompts of one forward.
        seed: of the random sets and the resamples.
    """

    accuracy: str | Metric = "top1"
    n_controls: int = 20
    level: float = 0.05
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Scored:
    """One way to run the prompts: means over them, with intervals.

    Attributes:
        name: what was done.
        metric, accuracy: means; of random sets, over the sets too.
        gain: of the metric, against the untouched model.
    """

    name: str
    metric: Estimate
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True, eq=False)
class Repair(Tabled):
    """Made by `repair`.

    Attributes:
        heads: labels.
        override: what they were made to do, in words.
        scores: in `RUNS`, without random heads where there are none.
        beaten_by: share of the random sets whose mean metric is at least that of the heads.
        n_controls: different random sets.
        findings: 'untouched', 'uniform', 'random heads': the metric is higher than there.
    """

    heads: tuple[str, ...]
    override: str
    metric: str
    accuracy: str
    scores: tuple[Scored, ...]
    beaten_by: float
    n_controls: int
    findings: Findings

    def __getitem__(self, name: str) -> Scored:
        return next(one for one in self.scores if one.name == name)

    @property
    def is_repaired(self) -> bool:
        """Whether the metric rises, and more than under each control; how broken it was, the untouched scores say."""
        return all(one.holds is True for one in self.findings.found)

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        rows = [
            [one.name, number(one.metric.mean), interval(one.metric.ci_low, one.metric.ci_high), number(one.accuracy.mean),
             number(one.gain.mean, signed=True)]
            for one in self.scores
        ]  # fmt: skip
        said = "raises" if self.is_repaired else "not shown to raise"
        before, after = (number(self[name].accuracy.mean) for name in (UNTOUCHED, REPAIRED))
        title = f"{listed(self.heads)}, to {self.override}: {said} {self.metric}; {self.accuracy} {before} -> {after}"
        remarks = [f"more than {one.test}: {one.words}" for one in self.findings.found]
        if self.n_controls:
            remarks.append(f"{self.beaten_by:.0%} of {self.n_controls} random sets do as well")
        return title, ["heads", self.metric, "interval", self.accuracy, "gain"], rows, remarks
