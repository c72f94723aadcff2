"""Whether a ranking of edges would be the same on other prompts, templates or seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import resamples
from interp.circuits.graph.graph import Graph, Scores
from interp.circuits.judging.overlap import chance_jaccard
from interp.circuits.judging.selection import best, strengths
from interp.circuits.judging.significance import PerExample, n_examples
from interp.circuits.ranks import centred_ranks, correlation
from interp.kernels.errors import InterpError, suggest

WAYS = ("halves", "bootstrap")


class Agreement(NamedTuple):
    """How far two score sets agree.

    Attributes:
        spearman: rank correlation over all edges; nan where either set is flat.
        jaccard: share of the union of their n best edges (not pruned) that both have.
    """

    spearman: float
    jaccard: float


def agreement(graph: Graph, one: Scores, other: Scores, n: int, *, absolute: bool = True) -> Agreement:
    """Of two rankings of the same graph.

    Raises:
        InterpError: E203, E206, E207 as `interp.circuits.judging.selection.best`.
    """
    first, second = (best(graph, scores, n, absolute=absolute) for scores in (one, other))
    union = int((first | second).sum())
    jaccard = int((first & second).sum()) / union if union else float("nan")
    ranks = (centred_ranks(strengths(graph, scores, absolute=absolute)) for scores in (one, other))
    return Agreement(float(correlation(*ranks)), jaccard)


@dataclass(frozen=True, eq=False)
class Stability:
    """Agreement over pairs of score sets.

    Attributes:
        n: edges in the top sets.
        jaccard, spearman: of each pair.
        chance: average Jaccard index of two random sets of n edges.
        level: 1 - the share of pairs between `low` and `high`.
    """

    n: int
    jaccard: Float[np.ndarray, " pair"]
    spearman: Float[np.ndarray, " pair"]
    chance: float
    level: float

    @property
    def mean(self) -> float:
        """Mean Jaccard index of the top n."""
        return float(self.jaccard.mean())

    @property
    def low(self) -> float:
        """Lower end of the interval that holds 1 - level of the pairs."""
        return float(np.quantile(self.jaccard, self.level / 2))

    @property
    def high(self) -> float:
        return float(np.quantile(self.jaccard, 1 - self.level / 2))


def stability(
    graph: Graph, score_sets: Sequence[Scores], n: int, *, absolute: bool = True, level: float = 0.05
) -> Stability:
    """Over all pairs of score sets: of templates, of seeds, of methods.

    Raises:
        InterpError: E205 fewer than two sets; as `agreement`.
    """
    if len(score_sets) < 2:
        raise InterpError("E205", f"{len(score_sets)} score sets: nothing to compare", fix="give two or more")
    return _over(graph, combinations(score_sets, 2), n, absolute, level)


def resampled_stability(
    graph: Graph,
    per_example: PerExample,
    n: int,
    *,
    ways: str = "halves",
    n_pairs: int = 100,
    absolute: bool = True,
    level: float = 0.05,
    seed: int = 0,
) -> Stability:
    """Over pairs of samples of the prompts.

    Args:
        ways: 'halves': the samples share no prompt, so that noise agrees as `chance` says; each has half the prompts, so
            that the whole set is more stable than this. 'bootstrap': both are drawn from all prompts with replacement,
            share the noise of these prompts, and agree beyond chance where there is nothing but noise (rank correlation
            about one half).

    Raises:
        InterpError: E201 no such way; E205 one prompt; E203, E206, E207 as `agreement`.
    """
    if ways not in WAYS:
        raise InterpError("E201", f"no way {ways!r} to resample", fix=suggest(ways, WAYS))
    n_prompts = n_examples(graph, per_example)
    if n_prompts < 2:
        raise InterpError("E205", "one prompt can't be resampled", fix="score more prompts")
    drawn = resamples(n_prompts, 2 * n_pairs, seed) if ways == "bootstrap" else [_halves(n_prompts, n_pairs, seed)]
    means = (np.tensordot(one.astype(per_example.dtype), per_example, 1) for some in drawn for one in some)
    return _over(graph, zip(means, means, strict=True), n, absolute, level)


def group_means(per_example: PerExample, groups: Sequence[str]) -> dict[str, Scores]:
    """Mean scores of each group of prompts, such as those of one template, for `stability`.

    Raises:
        InterpError: E205 not one name for each prompt.
    """
    if len(groups) != len(per_example):
        raise InterpError(
            "E205", f"{len(groups)} names for {len(per_example)} prompts", fix="name the group of each prompt"
        )
    names = np.array(groups)
    return {name: per_example[names == name].mean(0) for name in dict.fromkeys(groups)}


def _over(graph: Graph, pairs: Iterable[tuple[Scores, Scores]], n: int, absolute: bool, level: float) -> Stability:
    found = np.array([agreement(graph, one, other, n, absolute=absolute) for one, other in pairs])
    return Stability(n, found[:, 1], found[:, 0], chance_jaccard(graph.n_edges, n, n), level)


def _halves(n: int, n_pairs: int, seed: int) -> Float[np.ndarray, "half prompt"]:
    """Weights of the prompts in two disjoint halves, one after the other, for each pair."""
    rng, size = np.random.default_rng([seed, 2]), n // 2
    order = rng.permuted(np.tile(np.arange(n), (n_pairs, 1)), axis=1)
    found = np.zeros((n_pairs, 2, n))
    for half in range(2):
        np.put_along_axis(found[:, half], order[:, half * size : (half + 1) * size], 1 / size, 1)
    return found.reshape(-1, n)
