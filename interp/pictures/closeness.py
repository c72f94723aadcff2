"""Whether close means attended: rank correlation of distance with attention, beside permuted keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.ranks import centred_ranks, correlation

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
    found = float(correlation(centred_ranks(nearness(queries, keys)), ranks))
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
