"""Whether close means attended: rank correlation of distance with attention, beside permuted keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

N_PERMUTATIONS = 99


@dataclass(frozen=True)
class Closeness:
    """How well distance in a picture tells attention.

    Attributes:
        correlation: Spearman's, of nearness (minus the Euclidean distance of query and key) with attention; nan where
            either is the same in all pairs.
        permuted: mean of it with the keys of each prompt permuted among its pairs.
        spread: standard deviation of that.
        p: share of permutations that reach it, (r + 1) / (n + 1).
        n: pairs of a query and a key.
    """

    correlation: float
    permuted: float
    spread: float
    p: float
    n: int


def closeness(
    queries: Float[np.ndarray, "pair axis"],
    keys: Float[np.ndarray, "pair axis"],
    attention: Float[np.ndarray, " pair"],
    prompts: Int[np.ndarray, " pair"],
    *,
    seed: int,
    n_permutations: int = N_PERMUTATIONS,
) -> Closeness:
    """Nearness against attention over pairs.

    Args:
        prompts: number of the prompt that a pair is of.
    """
    ranks = centred_ranks(attention)
    found = correlation(centred_ranks(nearness(queries, keys)), ranks)
    rng, null = np.random.default_rng([seed, 2]), np.empty(n_permutations)
    for draw in range(n_permutations):
        order = np.lexsort((rng.random(len(prompts)), prompts))
        place = np.empty(len(prompts), dtype=np.int64)
        place[np.argsort(prompts, kind="stable")] = order
        null[draw] = correlation(centred_ranks(nearness(queries, keys[place])), ranks)
    p = (1 + int((null >= found).sum())) / (n_permutations + 1)
    return Closeness(found, float(null.mean()), float(null.std()), p, len(attention))


def nearness(
    queries: Float[np.ndarray, "pair axis"], keys: Float[np.ndarray, "pair axis"]
) -> Float[np.ndarray, " pair"]:
    """Minus the Euclidean distance of each pair."""
    near: np.ndarray = -np.linalg.norm(queries - keys, axis=1)
    return near


def centred_ranks(values: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
    """Ranks, ties at their mean, less the mean of all."""
    from scipy.stats import rankdata

    ranks: np.ndarray = rankdata(values) - (len(values) + 1) / 2
    return ranks


def correlation(one: Float[np.ndarray, " pair"], other: Float[np.ndarray, " pair"]) -> float:
    """Of values whose mean is 0; nan where either side is 0 everywhere."""
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / size) if size > 0 else float("nan")
