"""Margins: a number of each prompt that is at least 0, on average, where a claim holds."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from interp.circuits.interactions import estimate
from interp.circuits.judging.findings import Finding

NAN = float("nan")
ROUNDING = 1e-9
"""Margins that are the same in all prompts count as 0 up to this."""

SAID = {True: "holds", False: "fails", None: "undecided: more prompts are needed"}


def decided(
    test: str,
    margins: Float[np.ndarray, " prompt"],
    null: str,
    *,
    value: float,
    level: float,
    seed: int,
    strictly: bool = False,
) -> Finding:
    """Whether the mean margin is at least 0: yes or no where its whole interval says so, else undecided.

    Args:
        margins: of each prompt; linear in what was measured, so that no ratio of two noisy numbers is tested.
        value: the number that is shown, such as a share.
        strictly: it must be more than 0.

    Returns:
        The finding; `low` and `high` are the ends of the interval of the mean margin.
    """
    found = estimate(margins, level, seed)
    least = ROUNDING if strictly else -ROUNDING
    if math.isnan(found.ci_low):  # equal in all prompts: there is no interval
        holds = None if math.isnan(found.mean) else found.mean >= least
    else:
        holds = True if found.ci_low >= least else False if found.ci_high < least else None
    return Finding(test, value, found.ci_low, found.ci_high, null, NAN, holds, SAID[holds])


def ratio(part: Float[np.ndarray, " prompt"], whole: Float[np.ndarray, " prompt"]) -> float:
    """Mean of a part over the mean of the whole; nan where that is 0."""
    return float(part.mean() / whole.mean()) + 0.0 if whole.mean() else NAN  # + 0.0 makes -0 a 0
