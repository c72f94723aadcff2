"""What one method does to false reports of absent things, beside what it costs: figures, intervals, and the bar."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import bootstrap_interval

LEAST, MOST_LOST = 0.3, 0.02
"""The bar: false yes lowered by this share, and at most so much regular accuracy lost."""

ALIKE = "not distinguishable from other heads"

N_BOOT, LEVEL = 2000, 0.05
Span = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One method against the untouched model, on the same questions.

    Attributes:
        false_yes: rate of yes to absent companions.
        reduction: of that rate, as a share of the untouched model's, with its interval.
        regular, present, companion: change of accuracy: ordinary questions, presence questions whose answer is yes,
            companions that are there; with their intervals.
        beyond: yes to companions that are there, less what the untouched model says with yes made harder until it has
            as many false yeses (of such thresholds the lowest). Above 0: the method tells them apart better; not above 0: it
            moves the threshold.
        controls: reduction of each control set; its change of regular accuracy in `controls_regular`.
        note: '' or what a reader must know about these figures.
    """

    method: str
    source: str
    setting: str
    heads: tuple[str, ...]
    false_yes: float
    reduction: float
    reduction_ends: Span
    regular: float
    regular_ends: Span
    present: float
    companion: float
    companion_ends: Span
    beyond: float
    beyond_ends: Span
    controls: tuple[float, ...]
    controls_regular: tuple[float, ...]
    note: str

    @property
    def meets(self) -> bool:
        """Whether it meets the bar, by its means, and no control set does as well."""
        return self.reduction >= LEAST and self.regular >= -MOST_LOST and self.separates is not False

    @property
    def separates(self) -> bool | None:
        """Whether no control set lowers false yes as much; None without controls, or without any false yes."""
        return None if not self.controls or math.isnan(self.reduction) else self.reduction > max(self.controls)

    @property
    def verdict(self) -> str:
        """The bar in words."""
        return "met" if self.meets else ALIKE if self.separates is False else "not met"


def reduction(before: np.ndarray, after: np.ndarray) -> float:
    """Share of a rate that is gone; nan where there was none."""
    return float(1 - after.mean() / before.mean()) if before.any() else float("nan")


def reduction_interval(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Span:
    """Bootstrap interval of the reduction: prompts are drawn with replacement, both answers of each together."""
    n = len(before)
    drawn = np.random.default_rng([seed, 0]).multinomial(n, np.full(n, 1 / n), size=N_BOOT)
    was, now = drawn @ before.astype(float), drawn @ after.astype(float)
    shares = 1 - now[was > 0] / was[was > 0]
    if not len(shares):
        return float("nan"), float("nan")
    low, high = np.quantile(shares, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def ends(change: Float[np.ndarray, " prompt"]) -> Span:
    low, high = bootstrap_interval(change[None], level=LEVEL, n_boot=N_BOOT)
    return float(low[0]), float(high[0])
