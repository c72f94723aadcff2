"""Scores of configurations on the prompts that choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import moments
from interp.swapping.joint import Joint, Rows
from interp.swapping.search import Score, State


@dataclass(frozen=True, eq=False)
class Judge:
    """What a search asks of configurations.

    A search ends where the bound is about to break, on few prompts. So a loss of accuracy is the larger of two: of
    prompts that are answered wrongly, and of the share that margins let expect (`expected_wrong`); a loss of the metric
    is the mean and one standard error.

    Attributes:
        joint: runs configurations on the prompts that choose.
        checks: prompts of these that bound the loss; all of them rank.
        scale: what a loss of the metric is a share of.
        loss_of: 'accuracy' or 'metric'.
    """

    joint: Joint
    checks: Bool[np.ndarray, " prompt"]
    scale: float
    loss_of: str

    def __call__(self, states: Sequence[State]) -> list[Score]:
        return [self._score(self.joint.rows(state)) for state in states]

    @cached_property
    def base(self) -> Rows:
        """The untouched model."""
        return self.joint.rows((len(self.joint.classes) - 1,) * len(self.joint.heads))

    def _score(self, rows: Rows) -> Score:
        metric = float(np.nan_to_num(moments(rows.values[None])[1][0], nan=-np.inf))
        own, base = rows.picked(self.checks), self.base.picked(self.checks)
        loss = accuracy_lost(own, base) if self.loss_of == "accuracy" else metric_lost(own, base) / self.scale
        return Score(loss, metric)


def accuracy_lost(own: Rows, base: Rows) -> float:
    """Share of prompts: seen, or to be expected from margins, whichever is more."""
    seen = wrong(own.correct) - wrong(base.correct)
    return max(seen, expected_wrong(own.margin) - expected_wrong(base.margin))


def metric_lost(own: Rows, base: Rows) -> float:
    """Mean and one standard error; infinite where a number is not finite."""
    losses = base.values - own.values
    if not np.isfinite(losses).all():
        return float("inf")
    return float(losses.mean() + losses.std(ddof=1) / np.sqrt(len(losses)))


def wrong(correct: Float[np.ndarray, " prompt"]) -> float:
    """Share of prompts that are not answered rightly; a prompt without a number is not."""
    return float(1 - np.nan_to_num(correct).mean())


def expected_wrong(margin: Float[np.ndarray, " prompt"]) -> float:
    """Share of prompts of this kind whose margin is below 0, from margins of some.

    The kernel estimate of a distribution function (Nadaraya 1964), `mean_i Phi(-margin_i / h)`, with the width of the
    normal reference rule, `h = 1.06 s n^(-1/5)` (Silverman 1986, eq. 3.28). It sees how near prompts are to going wrong.
    """
    known = margin[np.isfinite(margin)]
    lost = 1 - len(known) / len(margin)
    if not len(known):
        return 1.0
    width = 1.06 * float(known.std()) * len(known) ** -0.2
    if not width:
        return lost + float((known < 0).mean()) * (1 - lost)
    return lost + (1 - lost) * float(np.mean([NormalDist().cdf(-value / width) for value in known.tolist()]))
