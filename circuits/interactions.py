"""What pairs of heads do beyond the sum of their heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from interp.circuits.evaluations import NONE, Evaluations, Objective
from interp.circuits.evidence import bootstrap_interval, moments
from interp.circuits.group_result import Estimate, Interaction
from interp.hooks.names import HeadId


def interactions(value: Objective, pairs: Sequence[tuple[HeadId, HeadId]]) -> list[Float[np.ndarray, " prompt"]]:
    """f(a, b) - f(a) - f(b) + f() of each pair, prompt by prompt."""
    found = []
    for a, b in pairs:
        both, one, other, none = value([frozenset([a, b]), frozenset([a]), frozenset([b]), NONE])
        found.append(both - one - other + none)
    return found


def pair_interactions(
    heads: Iterable[HeadId], objective: Objective, *, level: float = 0.05, seed: int = 0
) -> tuple[Interaction, ...]:
    """The interaction of every pair of these heads, with its interval over all prompts.

    Args:
        objective: as in `grow_group`.
        level: 1 - coverage of the intervals.
    """
    chosen = list(dict.fromkeys(heads))
    pairs = list(combinations(chosen, 2))
    value = Evaluations(objective)
    value([NONE, *(frozenset([head]) for head in chosen), *map(frozenset, pairs)])
    return tuple(
        Interaction((a.label, b.label), estimate(values, level, seed))
        for (a, b), values in zip(pairs, interactions(value, pairs), strict=True)
    )


def estimate(values: Float[np.ndarray, " prompt"], level: float, seed: int) -> Estimate:
    """Mean over prompts, with its interval."""
    low, high = bootstrap_interval(values[None], level=level, seed=seed)
    return Estimate(float(moments(values[None])[1][0]), float(low[0]), float(high[0]))
