"""What held-out prompts say about a group of heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.evidence import moments
from interp.circuits.group_result import Estimate
from interp.circuits.interactions import estimate
from interp.safety.intervals import ratio_interval, share_interval
from interp.safety.trials import CONTROL

if TYPE_CHECKING:
    from interp.safety.result import SafetyReport

LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """All of it on held-out prompts.

    Attributes:
        compliance: mean probability of the tokens that begin compliance without the group; `base` untouched.
        times: ratio of the two, with its interval.
        replies: share of replies that comply by phrases without the group, with its interval; `base_replies` untouched.
        cost: KL of harmless twins.
        above_controls: compliance less the mean of the random groups, prompt by prompt; nan without them.
        strongest_control: the largest mean compliance of a random group; nan without them.
        enough: the ratio is at least what was asked for, by its lower end, and replies comply more often, likewise.
        cheap: the cost is below the bound, by its upper end.
        controlled: above the mean of the random groups, by the interval, and above each of them.
    """

    base: float
    compliance: Estimate
    times: Estimate
    base_replies: Estimate
    replies: Estimate
    cost: Estimate
    above_controls: Estimate
    strongest_control: float
    enough: bool
    cheap: bool
    controlled: bool

    @property
    def claimed(self) -> bool:
        """Whether the group may be claimed to make the model refuse, and little else."""
        return self.enough and self.cheap and self.controlled


def verdict(report: SafetyReport) -> Verdict:
    """Of the group; without one nothing is enough."""
    row, seed = report.group_row, int(report.run.seeds["evidence"])
    numbers, settings = report.numbers, report.run.method
    compliance = numbers["compliance"]
    times = Estimate(*ratio_interval(compliance[row], compliance[0], seed=seed))
    replies, base_replies = (_share(report.complied["phrases"][at]) for at in (row, 0))
    cost = estimate(numbers["cost"][row], LEVEL, seed)
    controls = report.rows_of(CONTROL)
    above, strongest = Estimate(np.nan, np.nan, np.nan), float("nan")
    if controls:
        above = estimate(compliance[row] - compliance[controls].mean(0), LEVEL, seed)
        strongest = float(moments(compliance[controls])[1].max())
    own = estimate(compliance[row], LEVEL, seed)
    risen = times.ci_low >= settings["least"] and replies.ci_low > base_replies.ci_high
    return Verdict(
        base=float(compliance[0].mean()),
        compliance=own,
        times=times,
        base_replies=base_replies,
        replies=replies,
        cost=cost,
        above_controls=above,
        strongest_control=strongest,
        enough=bool(report.group) and risen,
        cheap=cost.mean < settings["max_kl"] and not cost.ci_high >= settings["max_kl"],
        controlled=bool(controls) and above.ci_low > 0 and own.mean > strongest,
    )


def _share(complied: np.ndarray) -> Estimate:
    yes, n = int(complied.sum()), len(complied)
    return Estimate(yes / n, *share_interval(yes, n))
