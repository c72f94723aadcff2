"""Every statistic against an independent oracle, and the rate of false and true claims on synthetic effects."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from interp.circuits.evidence import (
    benjamini_hochberg,
    bootstrap_interval,
    control_effects,
    judge,
    moments,
    sign_flip_p,
    smallest_p,
)


def neighbours(n_heads: int, per_layer: int, n: int) -> list[tuple[int, ...]]:
    """The next n heads of the same layer, for each head."""
    start = [head - head % per_layer for head in range(n_heads)]
    return [tuple(start[h] + (h + step) % per_layer for step in range(1, n + 1)) for h in range(n_heads)]


def null_effects(
    rng: np.random.Generator, n_heads: int, n: int, *, shared: float = 0.5, shift: float = 0.0
) -> np.ndarray:
    """Effects of heads that are all alike: correlated over heads, symmetric about `shift`."""
    return shift + rng.normal(size=(n_heads, n)) + shared * rng.standard_t(3, size=n)


def naive_bh(p: np.ndarray, level: float) -> np.ndarray:
    """Step-up rule, word for word: reject the k smallest, k the largest with p_(k) <= k / m * level."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    k = max([rank for rank, i in enumerate(order, 1) if p[i] <= rank / len(p) * level], default=0)
    return np.array([i in order[:k] for i in range(len(p))])


def brute_force_p(row: np.ndarray, *, two_sided: bool) -> float:
    """Share of all sign patterns whose studentised mean is at least as far out as the observed one."""

    def t(values: np.ndarray) -> float:
        value = values.mean() / (values.std(ddof=1) / np.sqrt(len(values)))
        return abs(value) if two_sided else value

    every = [t(np.array(signs) * row) for signs in itertools.product((1, -1), repeat=len(row))]
    return float(np.mean([value >= t(row) - 1e-9 for value in every]))


def test_benjamini_hochberg_equals_the_step_up_rule_and_scipy() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        p = np.where(rng.random(size) < 0.4, rng.random(size) * 0.01, rng.random(size)).round(3)
        q = benjamini_hochberg(p)
        np.testing.assert_allclose(q, stats.false_discovery_control(p), rtol=1e-12)
        for level in (0.01, 0.05, 0.2):
            np.testing.assert_array_equal(q <= level, naive_bh(p, level))


def test_benjamini_hochberg_leaves_out_heads_that_were_not_tested() -> None:
    q = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(q, [0.02, np.nan, 0.04])


@pytest.mark.parametrize("two_sided", [True, False])
def test_exact_sign_flip_equals_brute_force(two_sided: bool) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(6, 8)) + np.array([0, 0.3, 1, -1, 3, 0])[:, None]
    p = sign_flip_p(rows, two_sided=two_sided)
    np.testing.assert_allclose(p, [brute_force_p(row, two_sided=two_sided) for row in rows], rtol=1e-12)


def test_random_sign_flip_comes_near_the_exact_value_and_is_never_zero() -> None:
    rows = np.random.default_rng(2).normal(size=(5, 12)) + np.array([0, 0.2, 0.5, 1, 9])[:, None]
    exact, drawn = sign_flip_p(rows), sign_flip_p(rows, n_permutations=4000)
    assert 2**12 > 4000  # so the second one drew
    np.testing.assert_allclose(drawn, exact, atol=4 * np.sqrt(0.25 / 4000))
    far = np.full((1, 60), 9.0) + rows[:1, :1] * np.arange(60)  # no random flip will reach its sum
    assert sign_flip_p(np.abs(far), n_permutations=400)[0] == 1 / 401 == smallest_p(60, 400)


def test_sign_flip_of_integers_counts_ties() -> None:
    rows = np.array([[1.0, 1.0, 2.0, 0.0]])  # sums of all flips: 4 and -4 reach |4|, each with two signs of the 0
    assert sign_flip_p(rows)[0] == pytest.approx(4 / 16)


def test_gaps_are_as_if_the_prompt_were_not_there() -> None:
    rng = np.random.default_rng(3)
    row = rng.normal(size=10) + 0.5
    gappy = np.insert(row, [0, 4, 10], [np.nan, np.inf, -np.inf])[None, :]
    assert sign_flip_p(gappy, n_permutations=2**13)[0] == pytest.approx(sign_flip_p(row[None, :])[0])
    np.testing.assert_allclose(bootstrap_interval(gappy), bootstrap_interval(row[None, :]))
    n, mean, error = moments(gappy)
    assert (n[0], mean[0], error[0]) == (10, pytest.approx(row.mean()), pytest.approx(stats.sem(row)))


@pytest.mark.parametrize("n", [3, 12, 60])
def test_interval_agrees_with_scipy(n: int) -> None:
    rows = np.random.default_rng(4).exponential(size=(3, n)) - 0.5
    low, high = bootstrap_interval(rows, n_boot=20_000, level=0.1)
    for row, ours in zip(rows, zip(low, high, strict=True), strict=True):
        theirs = stats.bootstrap((row,), np.mean, n_resamples=20_000, confidence_level=0.9, method="BCa", rng=5)
        slack = 0.06 * (theirs.confidence_interval.high - theirs.confidence_interval.low)
        np.testing.assert_allclose(ours, theirs.confidence_interval, atol=slack)


def test_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rows = np.random.default_rng(5).normal(size=(1000, 40))
    low, high = bootstrap_interval(rows, n_boot=1000)
    assert 0.92 <= np.mean((low <= 0) & (high >= 0)) <= 0.97


def test_an_interval_does_not_depend_on_the_rows_beside_it() -> None:
    rows = np.random.default_rng(6).normal(size=(4, 20))
    rows[2, 3] = np.nan
    together = np.stack(bootstrap_interval(rows))
    alone = np.concatenate([np.stack(bootstrap_interval(row[None, :])) for row in rows], axis=1)
    np.testing.assert_allclose(together, alone, rtol=1e-9)


def test_control_effects_are_the_naive_means() -> None:
    rng = np.random.default_rng(7)
    effects = rng.normal(size=(5, 6))
    effects[1, 2] = effects[3, 2] = np.nan
    controls = [(1, 2), (3,), (), (0, 1, 4), (1, 3)]
    for head, row in enumerate(control_effects(effects, controls)):
        for prompt, value in enumerate(row):
            finite = [effects[c, prompt] for c in controls[head] if np.isfinite(effects[c, prompt])]
            assert value == pytest.approx(np.mean(finite)) if finite else np.isnan(value)


def test_false_claims_stay_at_the_level() -> None:
    """400 data sets, half where no head does anything, half where all heads do the same; every claim is false."""
    controls, runs = neighbours(24, 8, 4), 200
    for shift in (0.0, 1.0):
        claims = 0
        for seed in range(runs):
            rng = np.random.default_rng([8, seed])
            effects = null_effects(rng, 24, 32, shift=shift)
            found = judge(effects, rng.normal(size=32) + 2, controls, n_boot=10, n_permutations=999, seed=seed)
            assert found.does_task
            claims += bool(found.claimed.any())
        assert claims <= stats.binom.ppf(0.999, runs, 0.05), f"{claims} of {runs} runs claim a head (shift {shift})"


def test_false_share_among_claims_stays_at_the_level() -> None:
    """With three true heads of 24, the mean share of false ones among the claimed is the false-discovery rate."""
    controls, shares, power = neighbours(24, 8, 4), [], []
    for seed in range(150):
        rng = np.random.default_rng([9, seed])
        effects = null_effects(rng, 24, 32, shared=0.2)
        effects[[1, 9, 20]] += 1.5
        found = judge(
            effects, np.ones(32) + rng.normal(size=32) / 9, controls, n_boot=10, n_permutations=999, seed=seed
        )
        wrong = np.delete(found.claimed, [1, 9, 20]).sum()
        shares.append(wrong / max(1, found.claimed.sum()))
        power.append(found.claimed[[1, 9, 20]].mean())
    assert np.mean(shares) <= 0.07
    assert np.mean(power) >= 0.8


def test_planted_heads_are_found_with_the_right_sign_and_beside_their_controls() -> None:
    rng = np.random.default_rng(10)
    effects = 0.2 * rng.normal(size=(16, 40))
    effects[3] += 1.0
    effects[9] -= 0.6
    found = judge(effects, rng.normal(size=40) + 3, neighbours(16, 8, 4))
    assert np.flatnonzero(found.claimed).tolist() == [3, 9]
    assert found.ci_low[3] < effects[3].mean() < found.ci_high[3]
    assert found.ci_high[9] < 0
    assert abs(found.control_mean[3]) < 0.2
    assert found.n_tested == 16


def test_a_head_nearer_to_zero_than_its_controls_is_not_claimed() -> None:
    """Beside one strong head the others differ from their controls, because they do less; that is no discovery."""
    rng = np.random.default_rng(11)
    effects = 0.05 * rng.normal(size=(4, 40)) + np.array([3.0, 0.1, 0.1, -0.1])[:, None]
    found = judge(effects, rng.normal(size=40) + 3, [(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)])
    assert (found.p_zero < 0.001).all()
    assert (found.p_control < 0.001).all()
    assert found.p.tolist() == [found.p[0], 1, 1, 1]
    assert found.claimed.tolist() == [True, False, False, False]


def test_heads_that_all_do_the_same_are_not_claimed() -> None:
    rng = np.random.default_rng(12)
    found = judge(rng.normal(size=(16, 50)) + 2, rng.normal(size=50) + 3, neighbours(16, 8, 4))
    assert (found.p_zero < 0.001).all()
    assert not found.claimed.any()


def test_no_claim_where_the_model_does_not_do_the_task_unless_the_gate_is_off() -> None:
    rng = np.random.default_rng(13)
    effects = 0.1 * rng.normal(size=(8, 40))
    effects[2] += 1
    for baseline in (rng.normal(size=40), rng.normal(size=40) - 3):
        gated = judge(effects, baseline, neighbours(8, 8, 4))
        assert not gated.does_task
        assert gated.p_behaviour > 0.05
        assert not gated.claimed.any()
        free = judge(effects, baseline, neighbours(8, 8, 4), gate=False)
        assert free.does_task
        assert np.isnan(free.p_behaviour)
        assert free.claimed[2]


def test_constant_and_missing_rows_have_no_interval_and_no_claim() -> None:
    rng = np.random.default_rng(14)
    effects = rng.normal(size=(5, 12)) + 9
    effects[0], effects[1], effects[2, 1:], effects[3] = 0.0, 0.5, np.nan, np.nan
    found = judge(effects, rng.normal(size=12) + 9, [(4,), (4,), (4,), (4,), ()])
    assert found.n.tolist() == [12, 12, 1, 0, 12]
    assert np.isnan(found.ci_low).tolist() == [True, True, True, True, False]
    assert found.p[:4].tolist() == [1, 1, 1, 1]
    assert np.isnan(found.p[4])  # no control: not tested
    assert not found.claimed.any()
    assert found.notes == (
        "the same effect in every prompt: no interval, no test",
        "the same effect in every prompt: no interval, no test",
        "11 of 12 prompts not finite, left out; one prompt: no interval, no test",
        "12 of 12 prompts not finite, left out; no finite prompt: no test",
        "no control heads: not tested",
    )


@pytest.mark.parametrize("n", [0, 1])
def test_no_or_one_prompt(n: int) -> None:
    found = judge(np.ones((3, n)), np.ones(n), [(1, 2), (0, 2), (0, 1)])
    assert not found.does_task
    assert found.p.tolist() == [1, 1, 1]
    assert np.isnan(found.standard_error).all()
    assert not found.can_claim


def test_few_prompts_cannot_carry_a_claim_and_the_evidence_says_so() -> None:
    rng = np.random.default_rng(15)
    effects = 0.01 * rng.normal(size=(16, 6))
    effects[3] += 5
    found = judge(effects, np.ones(6) + rng.random(6), neighbours(16, 8, 4))
    assert found.p[3] == found.p_floor == smallest_p(6, 9999) == 2 / 2**6
    assert not found.can_claim
    assert not found.claimed.any()


def test_one_head_among_a_thousand_can_be_claimed() -> None:
    rng = np.random.default_rng(16)
    effects = rng.normal(size=(1024, 20))
    effects[500] += 5
    found = judge(effects, rng.normal(size=20) + 3, neighbours(1024, 32, 4), n_boot=10, n_permutations=99)
    assert found.can_claim
    assert found.claimed[500]


def test_the_seed_decides_every_digit() -> None:
    rng = np.random.default_rng(17)
    effects, baseline, controls = rng.normal(size=(8, 30)) + 0.3, rng.normal(size=30) + 1, neighbours(8, 8, 4)
    first, again, other = (judge(effects, baseline, controls, seed=seed) for seed in (1, 1, 2))
    for name in ("ci_low", "ci_high", "p_zero", "p_control", "q"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.ci_low != other.ci_low).any()
    assert (first.p_zero != other.p_zero).any()
