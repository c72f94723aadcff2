"""What may be claimed about heads: intervals, permutation tests and false-discovery control over prompts.

A head is claimed when all of this holds:

1. The model does the task: the clean metric is positive beyond chance (one-sided sign-flip test over prompts).
2. The head's mean effect differs from 0, and is further from 0 than the mean effect of its matched control heads, on
   whichever side that lies. All of it is tested over prompts; p is the largest of the p-values, which is the test of
   "all of these" (intersection-union).
3. p survives the procedure of Benjamini and Hochberg (1995) over all heads that have controls.

Prompts are the sampling unit: a claim is about other prompts of the same kind, for this one model. Rows that are not
finite are left out, head by head, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

CELLS = 2**22
"""Largest block of resamples held at once, in numbers."""

RELATIVE_ROUNDING = 1e-12
"""Sums of float64 that differ by less than this share of their terms' size count as equal."""


class Effect(NamedTuple):
    """One head of a ranking, beside its controls; fields as in `Evidence`.

    Attributes:
        normalised: of patches, where the mean stands between the corrupt run (0) and the clean run (1); else nan.
    """

    label: str
    mean: float
    ci_low: float
    ci_high: float
    control_mean: float
    q: float
    claimed: bool
    note: str
    normalised: float = math.nan


@dataclass(frozen=True, eq=False)
class Evidence:
    """What prompts say about each head; made by `judge`.

    Attributes:
        level: significance level, false-discovery rate, and 1 - coverage of the intervals.
        n: prompts with a finite effect.
        mean: mean effect; nan where no prompt is finite.
        standard_error: of the mean, over prompts.
        ci_low: lower end of the bootstrap interval; nan where there is none (then `notes` says why).
        ci_high: upper end.
        control_mean: mean effect of the head's matched controls; nan without controls.
        p_zero: two-sided, mean effect against 0.
        p_control: two-sided, mean effect against the mean of the controls and against its mirror image, the larger
            of the two; nan without controls.
        p: of both together; 1 where the head's effect is nearer to 0 than that of its controls, nan without controls.
        q: p after false-discovery control; claimed heads have q <= level.
        claimed: whether the head may be claimed to matter.
        notes: '' or what a reader must know about this head's numbers.
        gate: whether the model had to do the task first (the metric's chance level is 0).
        p_behaviour: one-sided, clean metric above 0; nan without gate.
        does_task: whether p_behaviour <= level; True without gate.
        p_floor: the smallest p that this number of prompts and resamples can give.
    """

    level: float
    n: Int[np.ndarray, " head"]
    mean: Float[np.ndarray, " head"]
    standard_error: Float[np.ndarray, " head"]
    ci_low: Float[np.ndarray, " head"]
    ci_high: Float[np.ndarray, " head"]
    control_mean: Float[np.ndarray, " head"]
    p_zero: Float[np.ndarray, " head"]
    p_control: Float[np.ndarray, " head"]
    p: Float[np.ndarray, " head"]
    q: Float[np.ndarray, " head"]
    claimed: Bool[np.ndarray, " head"]
    notes: tuple[str, ...]
    gate: bool
    p_behaviour: float
    does_task: bool
    p_floor: float

    def ranking(self) -> list[int]:
        """Numbers of all heads: claimed ones first, then by size of the mean effect, helping or hurting."""
        size = np.where(np.isfinite(self.mean), np.abs(self.mean), -1.0)
        order: list[int] = np.lexsort((np.arange(len(size)), -size, ~self.claimed)).tolist()
        return order

    def row(self, index: int, label: str) -> Effect:
        """One head's numbers, under its name."""
        statistics = (self.mean, self.ci_low, self.ci_high, self.control_mean, self.q)
        mean, low, high, control, q = (float(values[index]) for values in statistics)
        return Effect(label, mean, low, high, control, q, bool(self.claimed[index]), self.notes[index])

    @property
    def n_tested(self) -> int:
        """Heads in the family that false discoveries are counted over."""
        return int(np.isfinite(self.p).sum())

    @property
    def can_claim(self) -> bool:
        """Whether one head alone could be claimed with this number of prompts, were its effect as clear as can be."""
        return self.p_floor * max(self.n_tested, 1) <= self.level


def judge(
    effects: Float[np.ndarray, "head prompt"],
    baseline: Float[np.ndarray, " prompt"],
    controls: Sequence[tuple[int, ...]],
    *,
    gate: bool = True,
    level: float = 0.05,
    n_boot: int = 2000,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Evidence:
    """Which heads matter, by the definition above.

    Args:
        effects: metric(clean) - metric(ablated); not finite where a run was not.
        baseline: metric of the untouched model.
        controls: for each head, indices of its matched control heads; empty: measured, but not tested.
        gate: ask first whether the model does the task; False where 0 is not the metric's chance level.
        level: false-discovery rate over heads, level of the gate, and 1 - coverage of the intervals.
        n_boot: bootstrap resamples.
        n_permutations: sign flips at least; raised so that one head among all can pass the false-discovery control.
        seed: of both kinds of resamples.
    """
    assert len(controls) == len(effects), f"{len(controls)} control sets for {len(effects)} heads"
    n_permutations = max(n_permutations, int(np.ceil(2 * len(effects) / level)))
    test = partial(sign_flip_p, n_permutations=n_permutations, seed=seed)
    n, mean, standard_error = moments(effects)
    ci_low, ci_high = bootstrap_interval(effects, level=level, n_boot=n_boot, seed=seed)
    control = control_effects(effects, controls)
    p_zero = test(effects)
    p_control, is_farther = _against_controls(effects, control, test)
    p = np.where(is_farther, np.maximum(p_zero, p_control), 1.0)
    untested = np.array([not indices for indices in controls], dtype=bool)
    p_control[untested] = p[untested] = np.nan
    q = benjamini_hochberg(p)
    p_behaviour = float(test(baseline[None, :], two_sided=False)[0]) if gate else float("nan")
    does_task = not gate or p_behaviour <= level
    claimed = does_task & (q <= level)
    notes = _notes(effects, controls)
    floor = smallest_p(effects.shape[1], n_permutations)
    return Evidence(
        level, n, mean, standard_error, ci_low, ci_high, moments(control)[1], p_zero, p_control, p, q, claimed, notes,
        gate, p_behaviour, does_task, floor,
    )  # fmt: skip


def moments(
    values: Float[np.ndarray, "row prompt"],
) -> tuple[Int[np.ndarray, " row"], Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Number, mean and standard error of each row's finite values; nan where there are too few."""
    finite = np.isfinite(values)
    n = finite.sum(axis=1)
    mean = np.where(finite, values, 0.0).sum(axis=1) / np.where(n > 0, n, np.nan)
    squares = (np.where(finite, values - mean[:, None], 0.0) ** 2).sum(axis=1)
    return n, mean, np.sqrt(squares / np.where(n > 1, n - 1, np.nan) / np.where(n > 0, n, np.nan))


def is_varied(values: Float[np.ndarray, "row prompt"]) -> Bool[np.ndarray, " row"]:
    """Whether a row has at least two finite values that differ by more than rounding."""
    finite = np.isfinite(values)
    high = np.where(finite, values, -np.inf).max(axis=1, initial=-np.inf)
    low = np.where(finite, values, np.inf).min(axis=1, initial=np.inf)
    size = np.where(finite, np.abs(values), 0.0).max(axis=1, initial=0.0)
    varied: np.ndarray = high > low + RELATIVE_ROUNDING * size
    return varied


def control_effects(
    effects: Float[np.ndarray, "head prompt"], controls: Sequence[tuple[int, ...]]
) -> Float[np.ndarray, "head prompt"]:
    """Mean effect of each head's controls, prompt by prompt, over those that are finite; nan where none is."""
    member = np.zeros((len(effects), len(effects)))
    for head, indices in enumerate(controls):
        assert head not in indices, f"head {head} is its own control"
        member[head, list(indices)] = 1.0
    finite = np.isfinite(effects)
    count = member @ finite
    return (member @ np.where(finite, effects, 0.0)) / np.where(count > 0, count, np.nan)


def _against_controls(
    effects: Float[np.ndarray, "head prompt"],
    control: Float[np.ndarray, "head prompt"],
    test: Callable[[Float[np.ndarray, "head prompt"]], Float[np.ndarray, " head"]],
) -> tuple[Float[np.ndarray, " head"], Bool[np.ndarray, " head"]]:
    """Larger p of effect against control and against -control, and whether the effect is further from 0 than both."""
    side = np.sign(moments(effects)[1])
    margins = [effects - control, effects + control]
    is_farther: np.ndarray = np.all([side * moments(margin)[1] > 0 for margin in margins], axis=0)
    return np.maximum(*(test(margin) for margin in margins)), is_farther


def bootstrap_interval(
    values: Float[np.ndarray, "row prompt"], *, level: float = 0.05, n_boot: int = 2000, seed: int = 0
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Bias-corrected and accelerated bootstrap interval of each row's mean over its finite values.

    Efron 1987, "Better bootstrap confidence intervals". Every row is resampled alike, so a row's interval does not
    depend on the rows it came with.

    Returns:
        Lower and upper ends with coverage 1 - level; nan where a row has fewer than two different finite values.
    """
    low, high = np.full(len(values), np.nan), np.full(len(values), np.nan)
    finite, varied = np.isfinite(values), is_varied(values)
    for mask in np.unique(finite[varied], axis=0):
        rows = varied & (finite == mask).all(axis=1)
        low[rows], high[rows] = _accelerated_interval(values[rows][:, mask], level, n_boot, seed)
    return low, high


def _accelerated_interval(
    values: Float[np.ndarray, "row prompt"], level: float, n_boot: int, seed: int
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """The interval of rows without gaps."""
    normal, mean = NormalDist(), values.mean(axis=1)
    means = np.sort(resampled_means(values, n_boot, seed), axis=0)
    slack = RELATIVE_ROUNDING * np.abs(values).max(axis=1)
    below = ((means < mean - slack).mean(axis=0) + (means <= mean + slack).mean(axis=0)) / 2
    bias = np.vectorize(normal.inv_cdf, otypes=[float])(below.clip(0.5 / n_boot, 1 - 0.5 / n_boot))
    centred = values - mean[:, None]
    acceleration = (centred**3).sum(axis=1) / (6 * (centred**2).sum(axis=1) ** 1.5)
    ends = []
    for share in (level / 2, 1 - level / 2):
        shifted = bias + normal.inv_cdf(share)
        adjusted = np.vectorize(normal.cdf, otypes=[float])(bias + shifted / (1 - acceleration * shifted))
        ends.append(_sorted_quantile(means, adjusted))
    return ends[0], ends[1]


def resampled_means(values: Float[np.ndarray, "row prompt"], n_boot: int, seed: int) -> Float[np.ndarray, "boot row"]:
    """Mean of each row under the same draws of prompts with replacement, so that rows can be compared."""
    return np.concatenate([weights @ values.T for weights in resamples(values.shape[1], n_boot, seed)])


def resamples(n: int, n_boot: int, seed: int) -> Iterator[Float[np.ndarray, "some_boot prompt"]]:
    """Weight of each of n prompts in each resample, drawn with replacement; they sum to 1, and come block by block."""
    rng, block = np.random.default_rng([seed, 0]), max(1, CELLS // n)
    for start in range(0, n_boot, block):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(block, n_boot - start)) / n


def _sorted_quantile(
    ordered: Float[np.ndarray, "boot row"], share: Float[np.ndarray, " row"]
) -> Float[np.ndarray, " row"]:
    """Quantile of each column at its own share, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, len(ordered) - 1)
    rows = np.arange(ordered.shape[1])
    quantile: np.ndarray = ordered[below, rows] + (place - below) * (ordered[above, rows] - ordered[below, rows])
    return quantile


def sign_flip_p(
    values: Float[np.ndarray, "row prompt"], *, two_sided: bool = True, n_permutations: int = 9999, seed: int = 0
) -> Float[np.ndarray, " row"]:
    """p-value of each row's mean against 0, by flipping the signs of its values.

    A flip leaves the sum of squares alone, so the mean, its sum and the studentised mean order flips alike and give
    the same p. All 2^n flips are counted where that is at most `n_permutations`; otherwise as many random ones are
    drawn and p = (r + 1) / (m + 1) with r of m flips reaching the observed value (Phipson and Smyth 2010).

    Returns:
        p; 1 where a row has fewer than two different finite values, because then nothing can be tested.
    """
    filled = np.where(np.isfinite(values), values, 0.0)
    observed = np.abs(filled.sum(axis=1)) if two_sided else filled.sum(axis=1)
    target = observed - RELATIVE_ROUNDING * np.abs(filled).sum(axis=1)
    reached = np.zeros(len(values))
    for signs in _sign_blocks(values.shape[1], n_permutations, seed, len(values)):
        sums = signs @ filled.T
        reached += ((np.abs(sums) if two_sided else sums) >= target).sum(axis=0)
    exact = 2 ** values.shape[1] <= n_permutations
    p = reached / 2 ** values.shape[1] if exact else (reached + 1) / (n_permutations + 1)
    return np.where(is_varied(values), p, 1.0)


def _sign_blocks(n: int, n_permutations: int, seed: int, n_rows: int) -> Iterator[Float[np.ndarray, "flip prompt"]]:
    """All sign vectors of length n, or random ones, in blocks that keep memory bounded."""
    exact = 2**n <= n_permutations
    total, rng = 2**n if exact else n_permutations, np.random.default_rng([seed, 1])
    block = max(1, CELLS // max(n, n_rows, 1))
    for start in range(0, total, block):
        stop = min(start + block, total)
        negative = (
            (np.arange(start, stop)[:, None] >> np.arange(n)) & 1 if exact else rng.random((stop - start, n)) < 0.5
        )
        yield 1.0 - 2.0 * negative


def smallest_p(n: int, n_permutations: int) -> float:
    """The smallest two-sided p that `sign_flip_p` can give for n prompts."""
    return min(1.0, 2 / 2**n) if 2**n <= n_permutations else 1 / (n_permutations + 1)


def benjamini_hochberg(p: Float[np.ndarray, " head"]) -> Float[np.ndarray, " head"]:
    """Adjusted p-values: rejecting q <= level keeps the expected share of false claims at or below `level`.

    Entries that are nan are no part of the family and stay nan.
    """
    q = np.full(len(p), np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    ratio = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum.accumulate(ratio[::-1])[::-1].clip(max=1.0)
    return q


def _notes(effects: Float[np.ndarray, "head prompt"], controls: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """What a reader must know about each head's numbers."""
    total, notes = effects.shape[1], []
    for finite, varied, indices in zip(moments(effects)[0].tolist(), is_varied(effects), controls, strict=True):
        parts = [f"{total - finite} of {total} prompts not finite, left out"] if finite < total else []
        if finite == 0:
            parts.append("no finite prompt: no test")
        elif finite == 1:
            parts.append("one prompt: no interval, no test")
        elif not varied:
            parts.append("the same effect in every prompt: no interval, no test")
        if not indices:
            parts.append("no control heads: not tested")
        notes.append("; ".join(parts))
    return tuple(notes)
