"""Tests of circuits against enumeration, naive sums, calibration under their nulls, and planted models."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import pytest
from scipy.stats import beta

from interp.circuits.graph.graph import Edges, Graph, LayerShape
from interp.circuits.judging.completeness import completeness
from interp.circuits.judging.findings import Rigour, Values, exact_interval
from interp.circuits.judging.hypotheses import (
    equivalence,
    hypotheses,
    independence,
    necessity,
    random_circuits,
    sufficiency,
)
from interp.circuits.judging.independence import dependence
from interp.circuits.judging.minimality import minimality
from interp.kernels.errors import InterpError
from tests.cases.posed import planted

SHAPE = Graph.of_shape([LayerShape(2, 2), LayerShape(2, 2)])
QUICK = Rigour(n_random=40)


def added(weights: dict[str, float], n: int = 24, noise: float = 0.0, seed: int = 0) -> Values:
    """A metric that is a sum over edges that are in, each worth about its weight on every prompt."""
    rng = np.random.default_rng(seed)
    worth = np.zeros((n, *SHAPE.full.shape))
    for label, weight in weights.items():
        worth[(slice(None), *SHAPE.edge(label))] = weight * (1 + 0.1 * rng.normal(size=n))
    worth += noise * rng.normal(size=worth.shape)
    return lambda circuits: np.array([[(one * edges).sum() for one in worth] for edges in circuits])


PATH = ("embed->L0H0.v", "L0H0->L1H1.v", "L1H1->logits")


def test_equivalence_is_the_binomial_tail_at_the_margin() -> None:
    """6 of 20 prompts do better, one is a tie: 6.5 / 20."""
    better = np.array([1.0] * 6 + [0.0] + [-1.0] * 13)
    found = equivalence(SHAPE, SHAPE.full, lambda _: np.stack([np.zeros(20), better]), Rigour(margin=0.1))
    far = sum(comb(20, k) * 0.6**k * 0.4 ** (20 - k) for k in range(21) if abs(k / 20 - 0.5) >= 0.175 - 1e-12)
    assert found.value == pytest.approx(0.325) and found.p == pytest.approx(far, abs=1e-12)
    same = equivalence(SHAPE, SHAPE.full, added(dict.fromkeys(PATH, 1.0)))
    assert same.value == 0.5 and same.p == pytest.approx(1) and same.holds
    worse = equivalence(SHAPE, SHAPE.none, added(dict.fromkeys(PATH, 1.0)))
    assert worse.holds is False and "worse" in worse.words and worse.value == 0


def naive_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Sums over pairs, triples and quadruples: the biased estimate, times n^2 / (n - 1)^2."""

    def kernel(values: np.ndarray) -> np.ndarray:
        far = [abs(a - b) for a in values for b in values if a != b]
        width = float(np.median(far))
        return np.array([[np.exp(-((a - b) ** 2) / (2 * width**2)) for b in values] for a in values])

    k, m, n = kernel(x), kernel(y), len(x)
    pairs = sum(k[i, j] * m[i, j] for i in range(n) for j in range(n)) / n**2
    triples = sum(k[i, j] * m[i, q] for i in range(n) for j in range(n) for q in range(n)) / n**3
    return (pairs + k.mean() * m.mean() - 2 * triples) * n**2 / (n - 1) ** 2


def test_hsic_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9))
    assert dependence(x, y).hsic == pytest.approx(naive_hsic(x, y), abs=1e-12)


def test_dependence_is_seen_where_correlation_is_not_and_claimed_as_rarely_as_stated() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=80)
    assert dependence(x, x**2 + 0.1 * rng.normal(size=80)).p < 0.01
    null = [dependence(*rng.normal(size=(2, 20)), n_permutations=199, seed=seed).p for seed in range(200)]
    assert np.mean(np.array(null) <= 0.05) < 0.1 and np.mean(np.array(null) <= 0.5) > 0.35
    assert dependence(x, np.ones(80)).p == 1
    far = x + 1000
    assert dependence(x, far, widths="joint").p == pytest.approx(dependence(x, far).p, abs=0.05)
    with pytest.raises(InterpError, match="no kernel width"):
        dependence(x, x, widths="wide")


def test_what_is_outside_is_independent_where_the_circuit_is_all() -> None:
    values = added({**dict.fromkeys(PATH, 1.0), "embed->logits": 0.5})
    path = SHAPE.of_labels(PATH)
    assert independence(SHAPE, path | SHAPE.of_labels(["embed->logits"]), values).holds
    shared = np.random.default_rng(2).normal(size=60)

    def leaky(circuits: Sequence[Edges]) -> np.ndarray:
        return np.array([shared * (1 + (edges & path).sum()) for edges in circuits])

    found = independence(SHAPE, path, leaky)
    assert found.holds is False and "still depends" in found.words and "sd" in found.words


def test_shares_have_exact_intervals() -> None:
    low, high = exact_interval(37, 40, 0.05)
    assert low == pytest.approx(beta.ppf(0.025, 37, 4)) and high == pytest.approx(beta.ppf(0.975, 38, 3))
    assert exact_interval(40, 40, 0.05)[1] == 1


def test_the_true_circuit_passes_where_a_random_one_of_its_size_fails() -> None:
    case, graph = planted("planted-induction"), planted("planted-induction").flow.graph
    trials, true = case.trials("resample"), case.edges("resample")
    enough = sufficiency(graph, true, trials, QUICK)
    assert enough.holds and enough.value == 1 and enough.p == pytest.approx(0.9**40)
    other = random_circuits(graph, true, Rigour(n_random=1, seed=5))[0]
    assert other.sum() == true.sum()
    poor = sufficiency(graph, other, trials, QUICK)
    assert poor.holds is False and poor.p > 0.05


def test_losing_the_circuit_costs_more_than_losing_random_ones_counted_by_hand() -> None:
    values = added(dict.fromkeys(PATH, 1.0), noise=0.01)
    many = Rigour(n_random=200)
    true, idle = SHAPE.of_labels(PATH), SHAPE.of_labels(["embed->L0H1.v", "L0H1->L1H0.v", "L1H0->logits"])
    found = necessity(SHAPE, true, values, many)
    full, without, *others = values([SHAPE.full, SHAPE.full & ~true, *(SHAPE.full & ~one for one in random_circuits(
        SHAPE, true, many)
    )])  # fmt: skip
    costs = [((full - one) ** 2).mean() for one in others]
    assert found.value == np.mean([((full - without) ** 2).mean() > cost for cost in costs])
    assert found.holds and found.value > 0.9
    unneeded = necessity(SHAPE, idle, values, many)
    assert unneeded.holds is False and unneeded.value < 0.6 and "random circuits" in unneeded.words


def test_an_edge_that_was_put_in_is_idle_and_true_ones_are_not() -> None:
    """Every edge is worth something small and random; three are worth 1, and a fourth is put into the circuit."""
    values = added(dict.fromkeys(PATH, 1.0), noise=0.01)
    true = SHAPE.of_labels(PATH)
    found = minimality(SHAPE, true, values, QUICK)
    assert found.finding.holds and [one.label for one in found.edges] == SHAPE.labels(true)
    assert all(one.drop == pytest.approx(1, abs=0.1) and one.beaten == 1 for one in found.edges)
    shadow = added({**dict.fromkeys(PATH, 1.0), "embed->logits": 1e-4}, noise=0.0)
    larger = minimality(SHAPE, true | SHAPE.of_labels(["L0H0->logits"]), shadow, QUICK)
    idle = [one.label for one in larger.edges if one.is_idle]
    assert idle == ["L0H0->logits"] and not larger.finding.holds and "L0H0->logits" in larger.finding.words


def test_an_edge_that_works_only_after_another_is_gone_has_a_large_drop_that_way() -> None:
    """m is 1 where either edge into the logits is in: alone each costs nothing."""
    both = ["L0H0->logits", "L0H1->logits"]
    places = [SHAPE.edge(label) for label in both]
    noise = 1 + 0.01 * np.random.default_rng(3).normal(size=16)

    def either(circuits: Sequence[Edges]) -> np.ndarray:
        return np.array([noise * any(edges[place] for place in places) for edges in circuits])

    circuit = SHAPE.of_labels([*both, "embed->L0H0.v", "embed->L0H1.v"])
    found = {one.label: one for one in minimality(SHAPE, circuit, either, QUICK).edges}
    for label in both:
        assert found[label].drop == 0 and found[label].largest == pytest.approx(1, abs=0.02)
        assert found[label].way != "nothing"
    assert found["embed->L0H0.v"].largest == 0


def test_one_arm_of_an_or_gate_is_faithful_and_not_complete() -> None:
    case, graph = planted("planted-or"), planted("planted-or").flow.graph
    trials, whole = case.trials("resample"), case.edges("program")
    one_arm = graph.pruned(whole & ~graph.of_labels(["L0H3->M0"]))
    full, half = trials([graph.full, one_arm])
    assert half.mean() == pytest.approx(full.mean(), abs=0.2)
    found = completeness(graph, one_arm, trials, n_sets=10, rounds=2)
    assert found.finding.holds is False and "incomplete" in found.finding.words
    assert found.finding.high < -10 and {gap.kind for gap in found.gaps} == {"nothing", "random", "greedy"}
    for gap in found.gaps:
        assert not (gap.removed & ~one_arm).any() and gap.value == pytest.approx(gap.circuit - gap.model)
    assert completeness(graph, whole, trials, n_sets=10, rounds=2).finding.holds


def test_all_tests_stand_in_one_table() -> None:
    values = added(dict.fromkeys(PATH, 1.0), noise=0.01)
    found = hypotheses(SHAPE, SHAPE.of_labels(PATH), values, QUICK)
    tests = [one.test for one in found.found]
    assert len(set(tests)) == 6 and all(test in str(found) and test in found._repr_html_() for test in tests)
    assert found["sufficiency"].holds and found["minimality"].holds and found["completeness"].holds
    again = hypotheses(SHAPE, SHAPE.of_labels(PATH), values, QUICK)
    assert str(again) == str(found)


def test_circuits_that_cannot_be_tested_are_refused() -> None:
    values = added(dict.fromkeys(PATH, 1.0))
    with pytest.raises(InterpError, match="no edge"):
        hypotheses(SHAPE, SHAPE.none, values)
    with pytest.raises(InterpError, match="lead nowhere"):
        minimality(SHAPE, SHAPE.of_labels(["embed->L0H0.v"]), values)
