"""What prompts say of maps: each beside the random map, and each beside the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.evidence import Evidence, benjamini_hochberg, bootstrap_interval, judge, moments, sign_flip_p

Scores = Mapping[str, Float[np.ndarray, "method prompt"]]


def judge_maps(
    scores: Scores, baseline: Float[np.ndarray, " prompt"], control: int, *, gate: bool, seed: int
) -> Evidence:
    """Each score of each method against that of the control, with false-discovery control over all of them.

    Args:
        scores: by measure; rows of the evidence are in their order, methods innermost.
        baseline: the metric of the untouched model.
        control: number of the method that is the control.
        gate: whether the metric is 0 by chance.
    """
    n = len(next(iter(scores.values())))
    others = [
        () if method == control else (number * n + control,) for number in range(len(scores)) for method in range(n)
    ]
    return judge(np.concatenate(list(scores.values())), baseline, others, gate=gate, seed=seed)


@dataclass(frozen=True, eq=False)
class Contest:
    """Every method against every other by one measure, over prompts.

    Attributes:
        order: numbers of the methods, best mean first; those without a number are left out.
        q: of the difference of two methods, after false-discovery control over all pairs; nan on the diagonal.
    """

    order: tuple[int, ...]
    q: Float[np.ndarray, "method method"]

    @property
    def best(self) -> int | None:
        """The method with the highest mean."""
        return self.order[0] if self.order else None

    def tied(self, level: float = 0.05) -> tuple[int, ...]:
        """Methods that the best one does not beat."""
        return tuple(one for one in self.order[1:] if not self.q[self.order[0], one] <= level)


def contest(scores: Float[np.ndarray, "method prompt"], entrants: Sequence[int], *, seed: int) -> Contest:
    """Paired sign-flip tests between all entrants."""
    mean = moments(scores)[1]
    order = sorted((one for one in entrants if np.isfinite(mean[one])), key=lambda one: -mean[one])
    pairs = [(a, b) for index, a in enumerate(order) for b in order[index + 1 :]]
    q = np.full((len(scores), len(scores)), np.nan)
    if pairs:
        differences = np.stack([scores[a] - scores[b] for a, b in pairs])
        found = benjamini_hochberg(sign_flip_p(differences, seed=seed))
        for (a, b), value in zip(pairs, found, strict=True):
            q[a, b] = q[b, a] = value
    return Contest(tuple(order), q)


def fooled_rows(
    before: Float[np.ndarray, "method prompt pos"],
    after: Float[np.ndarray, "method prompt pos"],
    effects: Float[np.ndarray, "prompt pos"],
    true: Int[np.ndarray, " prompt"],
    decoy: Int[np.ndarray, " prompt"],
) -> Float[np.ndarray, "method prompt"]:
    """1 where a map puts the true token first before patterns are moved, and the decoy after; 0 where it does not follow.

    Nan where it did not put the true token first to begin with, and where the true token does not count more than the
    decoy any more, by taking each of them away from the run with moved patterns.

    Args:
        effects: what the metric loses without each token, in the run with moved patterns.
    """
    at = np.arange(before.shape[1])
    was = before[:, at, true] > before[:, at, decoy]
    is_so = effects[at, true] > np.abs(effects[at, decoy])
    follows = (after[:, at, decoy] >= after[:, at, true]).astype(float)
    known = np.isfinite(after[:, at, true]) & np.isfinite(after[:, at, decoy])
    return np.where(was & is_so & known, follows, np.nan)


@dataclass(frozen=True, eq=False)
class Fooled:
    """How often each map follows moved attention.

    Attributes:
        n: prompts that tell.
        share: of them.
        low, high: interval of the share; nan where it is the same in every prompt.
        q: of a share of 0, after false-discovery control; nan where no prompt tells.
    """

    n: np.ndarray
    share: Float[np.ndarray, " method"]
    low: Float[np.ndarray, " method"]
    high: Float[np.ndarray, " method"]
    q: Float[np.ndarray, " method"]

    def is_fooled(self, method: int, level: float = 0.05) -> bool:
        """Whether that is more than never."""
        return bool(self.q[method] <= level and self.share[method] > 0)


def judge_fooled(rows: Float[np.ndarray, "method prompt"], *, seed: int) -> Fooled:
    """The share of 1 in each row; one that is 1 in every prompt has p = 2^(1-n), as only flips of like signs reach it."""
    n, mean, _ = moments(rows)
    low, high = bootstrap_interval(rows, seed=seed)
    p = np.where((n > 0) & (mean == 1), 2.0 ** (1 - np.maximum(n, 1)), sign_flip_p(rows, seed=seed))
    return Fooled(n, mean, low, high, benjamini_hochberg(np.where(n > 0, p, np.nan)))
