"""Areas worked out by hand, intervals against the delta method, and gaps that carry no curve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from interp.circuits.judging.curves import area, curve
from interp.circuits.judging.selection import SHARES
from interp.kernels.errors import InterpError

NOMINAL = np.array(SHARES)


def test_cpr_and_cmd_of_a_case_worked_out_by_hand() -> None:
    """Two prompts; m(full) = 4 and m(empty) = -1, so that f is (m + 1) / 5."""
    full, empty = np.array([3.0, 5.0]), np.array([-2.0, 0.0])
    means = np.array([-1, -1, 0, 1.5, 4, 6.5, 9, 6.5, 4, 4])
    circuits = np.stack([means - 0.5, means + 0.5], 1)
    actual = np.array([0, 0, 0.004, 0.01, 0.02, 0.04, 0.1, 0.15, 0.45, 1])
    found = curve(circuits, full, empty, NOMINAL, actual)
    np.testing.assert_allclose(found.f, [0, 0, 0.2, 0.5, 1, 1.5, 2, 1.5, 1, 1], atol=1e-12)
    # widths .001 .003 .005 .01 .03 .05 .1 .3 .5; mean heights 0 .1 .35 .75 1.25 1.75 1.75 1.25 1
    cpr = 0 + 0.0003 + 0.00175 + 0.0075 + 0.0375 + 0.0875 + 0.175 + 0.375 + 0.5
    assert cpr == pytest.approx(1.18455, abs=1e-12)
    assert found.area("cpr").value == pytest.approx(1.18455, abs=1e-9)
    # |1 - f| is 1 1 .8 .5 0 .5 1 .5 0 0; mean heights 1 .9 .65 .25 .25 .75 .75 .25 0
    assert found.area("cmd").value == pytest.approx(
        0.001 + 0.0027 + 0.00325 + 0.0025 + 0.0075 + 0.0375 + 0.075 + 0.075, abs=1e-9
    )
    assert found.area("cmd").value == pytest.approx(0.20445, abs=1e-9)
    # after pruning the widths are 0 .004 .006 .01 .02 .06 .05 .3 .55
    assert found.area("cpr", axis="actual").value == pytest.approx(
        0.0004 + 0.0021 + 0.0075 + 0.025 + 0.105 + 0.0875 + 0.375 + 0.55, abs=1e-9
    )


def test_areas_on_a_log_axis_worked_out_by_hand() -> None:
    x, f = np.array([0.01, 0.1, 1.0]), np.array([0.2, 0.6, 1.0])
    assert area(f, x, "cpr", "log") == pytest.approx((0.4 + 0.8) / 2, abs=1e-12)
    assert area(f, x, "cmd", "log") == pytest.approx((0.6 + 0.2) / 2, abs=1e-12)
    uneven = np.array([0.02, 0.1, 1.0])  # ln 5 and ln 10 wide
    by_hand = (math.log(5) * 0.4 + math.log(10) * 0.8) / math.log(50)
    assert area(f, uneven, "cpr", "log") == pytest.approx(by_hand, abs=1e-12)
    with_empty = area(np.array([0.5, 0.2, 0.6, 1.0]), np.array([0, 0.02, 0.1, 1.0]), "cpr", "log")
    assert with_empty == pytest.approx(by_hand, abs=1e-12)


def test_a_perfect_circuit_has_the_areas_that_the_benchmark_states() -> None:
    ones = np.ones(10)
    assert area(ones, NOMINAL, "cpr") == pytest.approx(0.999, abs=1e-12)
    assert area(ones, NOMINAL, "cmd") == 0
    assert area(ones, NOMINAL, "cpr", "log") == pytest.approx(1, abs=1e-12)
    assert area(ones, NOMINAL, "cmd", "log") == 0
    assert area(np.zeros(10), NOMINAL, "cmd") == pytest.approx(0.999, abs=1e-12)
    assert area(np.zeros(10), NOMINAL, "cmd", "log") == pytest.approx(1, abs=1e-12)


def prompts(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Metric of the model, of the empty circuit, and of three circuits that keep .25, .75 and 1.5 of the gap."""
    rng = np.random.default_rng(seed)
    full, empty = rng.normal(3, 1, n), rng.normal(-1, 1, n)
    kept = np.array([0.25, 0.75, 1.5])[:, None]
    return empty + kept * (full - empty) + rng.normal(0, 1, (3, n)), full, empty


def test_intervals_are_those_of_the_delta_method() -> None:
    x = np.array([0.1, 0.5, 1.0])
    circuits, full, empty = prompts(2000, 0)
    found = curve(circuits, full, empty, x, x, n_boot=4000)
    gap = (full - empty).mean()
    residual = (circuits - empty) - found.f[:, None] * (full - empty)  # of the ratio of means, to first order
    error = residual.std(1) / gap / np.sqrt(2000)
    np.testing.assert_allclose(found.low, found.f - 1.96 * error, atol=0.15 * error.max())
    np.testing.assert_allclose(found.high, found.f + 1.96 * error, atol=0.15 * error.max())
    widths = np.array([0.2, 0.45, 0.25])  # weight of each point in the area
    spread = 1.96 * (widths @ residual).std() / gap / np.sqrt(2000)
    value, low, high = found.area("cpr")
    assert value == pytest.approx(widths @ found.f, abs=1e-12)
    assert (low, high) == pytest.approx((value - spread, value + spread), abs=0.15 * spread)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    x = np.array([0.1, 0.5, 1.0])
    held = np.zeros(4)
    for seed in range(200):
        found = curve(*prompts(40, seed), x, x, n_boot=400, seed=seed)
        held[:3] += (found.low <= [0.25, 0.75, 1.5]) & ([0.25, 0.75, 1.5] <= found.high)
        _, low, high = found.area("cpr")
        held[3] += low <= 0.05 + 0.3375 + 0.375 <= high  # widths .2, .45, .25
    assert (held >= 178).all() and (held < 200).any()  # .95 of 200 is 190; 178 is four standard errors below


def test_the_same_prompts_are_drawn_for_all_circuits() -> None:
    circuits, full, empty = prompts(20, 3)
    x = np.array([0.5, 1.0])
    found = curve(np.stack([full, full]), full, empty, x, x)
    np.testing.assert_allclose([found.low, found.high], np.ones((2, 2)), atol=1e-12)
    again = curve(circuits, full, empty, np.array([0.1, 0.5, 1]), np.array([0.1, 0.5, 1]), seed=1)
    other = curve(circuits, full, empty, np.array([0.1, 0.5, 1]), np.array([0.1, 0.5, 1]), seed=2)
    assert (again.f == other.f).all() and (again.low != other.low).all()


def test_one_prompt_has_a_curve_and_no_interval() -> None:
    x = np.array([0.5, 1.0])
    found = curve(np.array([[1.0], [2.0]]), np.array([2.0]), np.array([0.0]), x, x)
    assert found.f.tolist() == [0.5, 1.0]
    assert np.isnan([*found.low, *found.high, found.gap.low, *found.area("cpr")[1:]]).all()
    assert found.area("cpr").value == pytest.approx(0.375)


def test_prompts_without_a_number_are_left_out_of_every_point() -> None:
    circuits, full, empty = prompts(30, 1)
    x = np.array([0.1, 0.5, 1.0])
    clean = curve(circuits[:, 2:], full[2:], empty[2:], x, x)
    circuits[1, 0], full[1] = np.nan, np.inf
    found = curve(circuits, full, empty, x, x)
    assert (found.n, found.dropped) == (28, 2)
    np.testing.assert_array_equal(found.f, clean.f)
    with pytest.raises(InterpError) as caught:
        curve(circuits * np.nan, full, empty, x, x)
    assert caught.value.code == "E501"


@pytest.mark.parametrize(
    "gap",
    [np.zeros(8), np.array([5.0, -5.0] * 4), np.array([0.9, -0.7, 1.1, -0.2, 0.3, -1.0, 0.8, -0.6]), np.full(8, 1e-16)],
)
def test_a_metric_without_a_gap_is_refused(gap: np.ndarray) -> None:
    x, empty = np.array([0.5, 1.0]), np.full(8, 2.0)
    with pytest.raises(InterpError, match="no clean-ablated gap") as caught:
        curve(np.ones((2, 8)), empty + gap, empty, x, x)
    assert caught.value.code == "E407"
    assert "another ablation" in caught.value.fix


def test_a_gap_that_is_the_same_in_all_prompts_is_a_gap() -> None:
    x = np.array([0.5, 1.0])
    assert curve(np.ones((2, 8)), np.full(8, 3.0), np.ones(8), x, x).gap.value == 2.0


def test_what_has_no_area_is_refused() -> None:
    one, two = np.array([1.0]), np.array([1.0, 0.5])
    found = curve(np.ones((2, 3)), np.full(3, 3.0), np.zeros(3), two[::-1], np.zeros(2))
    for call, code in (
        (lambda: area(one, one, "cpr"), "E205"),
        (lambda: area(two, two, "cpr"), "E205"),
        (lambda: area(two, two[::-1], "cpm"), "E201"),
        (lambda: area(two, two[::-1], "cpr", "ln"), "E201"),
        (lambda: found.area("cpr", axis="asked"), "E201"),
        (lambda: found.area("cpr", axis="actual", scale="log"), "E205"),
        (lambda: curve(np.ones((2, 3)), np.full(3, 3.0), np.zeros(3), two, two), "E205"),
    ):
        with pytest.raises(InterpError) as caught:
            call()
        assert caught.value.code == code
    assert found.area("cpr", axis="actual").value == 0
