"""What may be claimed of scores: sign flips by hand, false discoveries counted, constant scores, random draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from interp.heads.claims import LEAST, judge_draws, judge_scores

OTHERS = [tuple(other for other in range(8) if other != head) for head in range(8)]


def by_hand(margins: np.ndarray) -> float:
    """Two-sided p over all flips."""
    observed = abs(margins.sum())
    flips = [abs(np.dot(signs, margins)) for signs in itertools.product((-1, 1), repeat=len(margins))]
    return float(np.mean([value >= observed - 1e-12 for value in flips]))


def test_p_is_that_of_all_flips_and_the_larger_of_both_comparisons() -> None:
    above = np.random.default_rng(0).normal(0.1, 0.1, size=(8, 8))
    above[3] += 0.5
    found = judge_scores(above, OTHERS, np.ones_like(above), seed=0)
    rest = np.delete(above, 3, 0).mean(0)
    assert found.p_zero[3] == pytest.approx(by_hand(above[3] - LEAST))
    assert found.p_control[3] == pytest.approx(by_hand(above[3] - rest - LEAST))
    assert found.p[3] == max(found.p_zero[3], found.p_control[3])


@pytest.mark.parametrize("n", [2, 8, 9, 12])
def test_a_score_that_is_the_same_everywhere_has_the_p_of_one_sign(n: int) -> None:
    above = np.zeros((8, n))
    above[2] = 0.9
    found = judge_scores(above, OTHERS, np.ones_like(above), seed=0)
    assert found.p[2] == pytest.approx(2.0 ** (1 - n)) == by_hand(above[2])
    enough = 8 * 2.0 ** (1 - n) <= 0.05  # one head of eight
    assert found.claimed.tolist() == [index == 2 and enough for index in range(8)] and found.can_claim == enough


def test_missing_prompts_count_for_nothing_in_a_constant_score() -> None:
    above = np.zeros((8, 12))
    above[2] = 0.9
    above[2, 4:] = np.nan
    found = judge_scores(above, OTHERS, np.ones_like(above), seed=0)
    assert found.p[2] == pytest.approx(2.0**-3) and not found.claimed.any()


def test_what_is_above_by_less_than_a_hundredth_is_no_claim_however_sure_it_is() -> None:
    above = np.zeros((8, 64))
    above[1], above[2] = 0.5 * LEAST, 5 * LEAST
    found = judge_scores(above, OTHERS, np.ones_like(above), seed=0)
    assert np.flatnonzero(found.claimed).tolist() == [2]


def test_where_nothing_bounds_a_score_the_largest_one_is_the_measure() -> None:
    above = np.zeros((8, 64))
    above[1], above[2] = 2e-5, 5e-5
    assert not judge_scores(above, OTHERS, np.ones_like(above), seed=0).claimed.any()
    assert np.flatnonzero(judge_scores(above, OTHERS, None, seed=0).claimed).tolist() == [1, 2]


def test_heads_below_chance_or_below_the_others_are_not_claimed() -> None:
    draw = np.random.default_rng(1)
    above = draw.normal(0.5, 0.05, size=(8, 32))
    above[0] = -0.5 + draw.normal(0, 0.05, size=32)
    above[1] = 0.2
    found = judge_scores(above, OTHERS, np.ones_like(above), seed=0)
    assert not found.claimed[0] and not found.claimed[1] and found.p[0] == found.p[1] == 1.0


def test_noise_is_claimed_no_oftener_than_the_level() -> None:
    claims = []
    for seed in range(100):
        above = np.random.default_rng(seed).normal(0, 0.1, size=(8, 12))
        claims.append(judge_scores(above, OTHERS, np.ones_like(above), seed=seed).claimed.any())
    assert np.mean(claims) <= 0.05


def test_a_head_without_others_is_measured_and_not_tested() -> None:
    found = judge_scores(np.full((1, 12), 0.5), [()], np.ones((1, 12)), seed=0)
    assert np.isnan(found.p[0]) and not found.claimed[0] and "not tested" in found.notes[0]


def test_draws_are_corrected_over_heads() -> None:
    p = np.array([1 / 161, 0.03, 0.5, np.nan])
    above = np.array([[0.9], [0.2], [0.0], [np.nan]])
    found = judge_draws(above, p, 160)
    assert found.q[:3] == pytest.approx([3 / 161, 0.045, 0.5]) and np.isnan(found.q[3])
    assert found.claimed.tolist() == [True, True, False, False] and found.notes[3] == "not defined"
    assert found.can_claim and not judge_draws(above, p, 10).can_claim
