"""Whether two numbers of each prompt are independent: the Hilbert-Schmidt criterion with a permutation test.

Gretton et al. 2007, "A kernel statistical test of independence": HSIC = tr(K H L H) / (n - 1)^2 with Gaussian kernels K, L
and H = 1 - 1/n. It sees any dependence, not only a linear one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import RELATIVE_ROUNDING, is_varied
from interp.kernels.errors import InterpError, suggest

WIDTHS = ("own", "joint")


class Dependence(NamedTuple):
    """HSIC, its mean over permutations, and the share of permutations that reach it; p is 1 where nothing varies."""

    hsic: float
    by_chance: float
    p: float


def dependence(
    x: Float[np.ndarray, " prompt"],
    y: Float[np.ndarray, " prompt"],
    *,
    widths: str = "own",
    n_permutations: int = 1000,
    seed: int = 0,
) -> Dependence:
    """Of two numbers of each prompt.

    Args:
        widths: of the kernels: 'own', the median distance of each number (Gretton et al.), or 'joint', the median distance
            between an x and a y for both, as in the code of Shi et al. 2024; where x and y lie far apart, that is so wide
            that little can be seen.

    Returns:
        p = (r + 1) / (m + 1), r of m permutations reaching the observed value.

    Raises:
        InterpError: E201 another word for the widths.
    """
    if widths not in WIDTHS:
        raise InterpError("E201", f"no kernel width {widths!r}", fix=suggest(widths, WIDTHS))
    if not is_varied(np.stack([x, y])).all():
        return Dependence(0.0, 0.0, 1.0)
    joint = float(np.median(np.abs(x[:, None] - y[None])))
    first, second = (_centred(_kernel(one, joint if widths == "joint" else None)) for one in (x, y))
    scale, rng = (len(x) - 1) ** 2, np.random.default_rng([seed, 6])
    observed = float((first * second).sum()) / scale
    orders = (rng.permutation(len(x)) for _ in range(n_permutations))
    chance = np.array([(first * second[np.ix_(order, order)]).sum() for order in orders]) / scale
    reached = int((chance >= observed * (1 - RELATIVE_ROUNDING)).sum())
    return Dependence(observed, float(chance.mean()), (reached + 1) / (n_permutations + 1))


def _kernel(values: Float[np.ndarray, " prompt"], width: float | None) -> Float[np.ndarray, "prompt prompt"]:
    distance = np.abs(values[:, None] - values[None])
    if not width:
        width = float(np.median(distance[distance > 0]))
    return np.exp(-(distance**2) / (2 * width**2))


def _centred(kernel: Float[np.ndarray, "prompt prompt"]) -> Float[np.ndarray, "prompt prompt"]:
    """H K H."""
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
