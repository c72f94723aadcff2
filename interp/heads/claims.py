"""Which heads score above chance and above the other heads of their layer: the claims that scores allow."""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import (
    Evidence,
    benjamini_hochberg,
    bootstrap_interval,
    control_effects,
    is_varied,
    moments,
    sign_flip_p,
    smallest_p,
)

LEVEL = 0.05
N_PERMUTATIONS = 9999
LEAST = 0.01
"""The least that a claimed head must be above chance and above others, as a share of the most that it can be: noise heads
differ from chance by less, and in the same direction in every prompt."""

Rows = Float[np.ndarray, "head prompt"]


def judge_scores(above: Rows, others: list[tuple[int, ...]], most: Rows | None, *, seed: int) -> Evidence:
    """Heads whose score is above chance and above the mean of others, tested over prompts.

    Sign-flip tests as in `interp.circuits.evidence`, with three differences. A score that is the same in every prompt is
    tested: its flips reach it only with all signs alike, so p = 2^(1-n). A head whose mean is on the lower side of either
    has p = 1, because it is none of this kind. And what is tested is whether the head is more than `LEAST` above.

    Args:
        above: score less chance.
        others: for each head the heads it is compared with; empty: measured, but not tested.
        most: the most that `above` can be; None, where nothing bounds it, takes the largest mean of any head.
        seed: of flips and bootstrap.
    """
    n_flips = max(N_PERMUTATIONS, int(np.ceil(2 * len(above) / LEVEL)))
    control = control_effects(above, others)
    size = np.nanmax(np.abs(moments(above)[1]), initial=0.0) if most is None else most
    test = partial(_p, n_flips=n_flips, seed=seed)
    p_zero, p_control = test(above - LEAST * size), test(above - control - LEAST * size)
    untested = np.array([not found for found in others], dtype=bool)
    p_control[untested] = np.nan
    p = np.where(untested, np.nan, np.maximum(p_zero, p_control))
    most_prompts = int(moments(above)[0].max(initial=0))
    low, high = bootstrap_interval(above, level=LEVEL, seed=seed)
    notes = _notes(above, untested)
    return _evidence(above, control, (p_zero, p_control, p), (low, high), notes, smallest_p(most_prompts, n_flips))


def judge_draws(above: Rows, p: Float[np.ndarray, " head"], n_draws: int) -> Evidence:
    """The same for scores of weights, where p is the share of random draws that score as much: (r + 1) / (n + 1)."""
    missing = np.full(len(above), np.nan)
    notes = tuple("" if np.isfinite(row).any() else "not defined" for row in above)
    control = np.full_like(above, np.nan)
    return _evidence(above, control, (p, missing, p), (missing, missing), notes, 1 / (n_draws + 1))


def _evidence(
    above: Rows,
    control: Rows,
    tests: tuple[np.ndarray, np.ndarray, np.ndarray],
    ends: tuple[np.ndarray, np.ndarray],
    notes: tuple[str, ...],
    floor: float,
) -> Evidence:
    """The record, with claims by false-discovery control over heads."""
    n, mean, error = moments(above)
    q = benjamini_hochberg(tests[2])
    claimed = (np.nan_to_num(q, nan=1.0) <= LEVEL) & (mean > 0)
    return Evidence(
        LEVEL, n, mean, error, *ends, moments(control)[1], *tests, q, claimed, notes,
        gate=False, p_behaviour=float("nan"), does_task=True, p_floor=floor,
    )  # fmt: skip


def _p(margins: Rows, *, n_flips: int, seed: int) -> Float[np.ndarray, " head"]:
    """Two-sided p of each row's mean against 0, or 1 where that is not above 0."""
    n, mean, _ = moments(margins)
    constant = np.maximum(2.0 ** (1 - n), smallest_p(margins.shape[1], n_flips))
    p = np.where(is_varied(margins), sign_flip_p(margins, n_permutations=n_flips, seed=seed), constant)
    return np.where(mean > 0, p, 1.0)


def _notes(above: Rows, untested: Bool[np.ndarray, " head"]) -> tuple[str, ...]:
    """What a reader must know about each head's numbers."""
    total, notes = above.shape[1], []
    for finite, varied, alone in zip(moments(above)[0].tolist(), is_varied(above), untested, strict=True):
        parts = [f"{total - finite} of {total} prompts without a score"] if finite < total else []
        parts += ["the same score in every prompt: no interval"] if finite > 1 and not varied else []
        parts += ["no other head to compare with: not tested"] if alone else []
        notes.append("; ".join(parts))
    return tuple(notes)
