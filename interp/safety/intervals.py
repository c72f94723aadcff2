"""Intervals of shares and of ratios."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

N_BOOT = 2000


def share_interval(yes: int, n: int, level: float = 0.05) -> tuple[float, float]:
    """Interval of a share (Wilson 1927), which knows that none of n is not never."""
    z = NormalDist().inv_cdf(1 - level / 2)
    share, weight = yes / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if yes == 0 else low), (1.0 if yes == n else high)


def ratio_interval(
    values: Float[np.ndarray, " prompt"], base: Float[np.ndarray, " prompt"], *, level: float = 0.05, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of two means over the same prompts, with the percentile interval of the bootstrap over prompts."""
    draws = np.random.default_rng([seed, 3]).integers(len(values), size=(N_BOOT, len(values)))
    ratios = values[draws].mean(1) / base[draws].mean(1)
    low, high = np.quantile(ratios, [level / 2, 1 - level / 2])
    return float(values.mean() / base.mean()), float(low), float(high)
