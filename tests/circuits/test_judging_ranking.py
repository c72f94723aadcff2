"""Areas and precision against scikit-learn, pairs counted one by one, and all orders of the ties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from interp.circuits.graph.graph import Graph, LayerShape
from interp.circuits.judging.ranking import auroc, average_precision, chance_precision
from interp.kernels.errors import InterpError

GRAPH = Graph.of_shape([LayerShape(2, 2)] * 3)
TINY = Graph.of_shape([LayerShape(1, 1)])  # embed->q, k, v, M0, logits; L0H0->M0, logits; M0->logits


def random_case(seed: int, ties: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = GRAPH.full & (rng.random(GRAPH.full.shape) < 0.2)
    scores = rng.normal(size=GRAPH.full.shape) + truth
    return (scores.round() if ties else scores), truth


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("ties", [0, 1])
def test_the_area_is_that_of_scikit_learn_and_of_pairs(absolute: bool, ties: int) -> None:
    for seed in range(5):
        scores, truth = random_case(seed, ties)
        values = np.abs(scores[GRAPH.full]) if absolute else scores[GRAPH.full]
        is_true = truth[GRAPH.full]
        found = auroc(GRAPH, scores, truth, absolute=absolute)
        pairs = [np.sign(a - b) / 2 + 0.5 for a in values[is_true] for b in values[~is_true]]
        assert found == pytest.approx(np.mean(pairs), abs=1e-12)
        assert found == pytest.approx(roc_auc_score(is_true, values), abs=1e-12)


def test_precision_without_ties_is_that_of_scikit_learn() -> None:
    for seed in range(5):
        scores, truth = random_case(seed)
        expected = average_precision_score(truth[GRAPH.full], np.abs(scores[GRAPH.full]))
        assert average_precision(GRAPH, scores, truth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [[0, 0, 0, 0, 0, 0, 0, 0], [3, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 2, 3, 4, 4]])
@pytest.mark.parametrize("true", [(0,), (1, 4), (2, 3, 6), (0, 1, 2, 3, 4, 5, 6)])
def test_precision_with_ties_is_the_mean_over_all_their_orders(values: list[int], true: tuple[int, ...]) -> None:
    assert TINY.n_edges == 8
    is_true = np.isin(np.arange(8), true)
    orders = []
    for order in itertools.permutations(range(8)):
        if all(values[a] >= values[b] for a, b in itertools.pairwise(order)):
            hits = is_true[list(order)]
            orders.append((np.cumsum(hits) / np.arange(1, 9))[hits].mean())
    scores = TINY.matrix(np.array(values, dtype=float))
    truth = TINY.matrix(is_true.astype(float)) > 0
    assert average_precision(TINY, scores, truth) == pytest.approx(np.mean(orders), abs=1e-12)
    if not any(values):
        assert chance_precision(TINY, truth) == pytest.approx(np.mean(orders), abs=1e-12)


def test_the_floor_ties_what_rounding_has_ordered() -> None:
    truth = GRAPH.of_labels(["embed->M0", "M0->M1", "M1->logits", "embed->L0H0.v"])
    scores = np.where(truth, 1.0, 1e-9 * np.random.default_rng(0).random(truth.shape))
    scores[GRAPH.edge("embed->L0H0.v")] = 0.0  # missed: among edges that are nothing but rounding it stands last
    n_false = GRAPH.n_edges - 4
    assert auroc(GRAPH, scores, truth) == pytest.approx(3 / 4, abs=1e-12)
    assert auroc(GRAPH, scores, truth, floor=1e-3) == pytest.approx((3 + 0.5) / 4, abs=1e-12)
    expected = (3 + np.mean([4 / (3 + rank) for rank in range(1, n_false + 2)])) / 4
    assert average_precision(GRAPH, scores, truth, floor=1e-3) == pytest.approx(expected, abs=1e-12)
    assert average_precision(GRAPH, scores, truth) == pytest.approx((3 + 4 / GRAPH.n_edges) / 4, abs=1e-12)


def test_the_floor_keeps_signs() -> None:
    truth = TINY.of_labels(["embed->logits"])
    scores = TINY.none.astype(float)
    scores[TINY.edge("embed->logits")], scores[TINY.edge("M0->logits")] = 1e-6, -1.0
    assert auroc(TINY, scores, truth, absolute=False) == 1.0
    assert auroc(TINY, scores, truth, absolute=False, floor=0.01) == pytest.approx((1 + 6 / 2) / 7)
    scores[TINY.edge("embed->logits")] = 0.01  # at the floor is not below it
    assert auroc(TINY, scores, truth, absolute=False, floor=0.01) == 1.0


def naive_official(graph: Graph, truth: set[str], scores: dict[str, float]) -> float:
    """Rates at the ten cuts, by sets of names; every edge of this graph leads to the logits, through M0 at most."""
    hit, missed = [], []
    for share in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1):
        left, chosen, inside = share * len(scores), set[str](), {"logits"}
        while left > 0:
            left -= 1
            ready = [e for e in scores if e not in chosen and e.split("->")[1].split(".")[0] in inside]
            taken = max(ready, key=lambda edge: abs(scores[edge]))
            chosen.add(taken)
            inside.add(taken.split("->")[0])
        kept = graph.pruned(graph.of_labels(chosen))
        names = set(graph.labels(kept))
        hit.append(len(names & truth) / len(truth))
        missed.append(len(names - truth) / (len(scores) - len(truth)))
    area = 0.0
    for i in range(9):
        area += (missed[i + 1] - missed[i]) / missed[-1] * (hit[i] + hit[i + 1]) / 2
    return area


def test_the_official_code_is_repeated_with_its_defects() -> None:
    for seed in range(4):
        scores, truth = random_case(seed)
        names = dict(zip(GRAPH.labels(), scores[GRAPH.full].tolist(), strict=True))
        expected = naive_official(GRAPH, set(GRAPH.labels(truth)), names)
        assert auroc(GRAPH, scores, truth, variant="official-code") == pytest.approx(expected, abs=1e-12)


def test_the_official_code_rounds_sizes_up() -> None:
    """Both true edges are found at .02 of 75, rounded up to 2, and a false one at .05: nothing of the area is lost."""
    graph = Graph.of_shape([LayerShape(3, 3)] * 2)
    assert graph.n_edges == 75
    truth = graph.of_labels(["M0->logits", "embed->M0"])
    scores = graph.none.astype(float)
    for label, score in {"M0->logits": 3.0, "embed->M0": 2.0, "embed->logits": 1.0}.items():
        scores[graph.edge(label)] = score
    assert auroc(graph, scores, truth, variant="official-code") == 1.0


def test_the_official_code_denies_a_perfect_ranking_its_full_area() -> None:
    truth = GRAPH.of_labels(["embed->L0H0.v", "L0H0->logits", "L0H0->M2", "M2->logits"])
    scores = truth.astype(float)
    assert auroc(GRAPH, scores, truth) == 1.0
    assert 0.9 < auroc(GRAPH, scores, truth, variant="official-code") < 1.0


@pytest.mark.parametrize(
    "change, code",
    [
        ({"truth": TINY.none}, "E205"),
        ({"truth": TINY.full}, "E205"),
        ({"truth": ~TINY.full}, "E205"),
        ({"truth": TINY.full[:, :1], "scores": np.zeros((1, 1, 5))}, "E206"),
        ({"scores": np.full(TINY.full.shape, np.nan)}, "E207"),
        ({"scores": np.full(TINY.full.shape, np.inf), "floor": 0.1}, "E207"),
        ({"floor": 1.0}, "E205"),
        ({"floor": -0.1}, "E205"),
        ({"variant": "paper"}, "E201"),
        ({"variant": "official-code", "floor": 0.1}, "E205"),
        ({"variant": "official-code", "absolute": False}, "E205"),
    ],
)
def test_what_has_no_area_is_refused(change: dict[str, object], code: str) -> None:
    given: dict[str, object] = {
        "scores": np.zeros(TINY.full.shape),
        "truth": TINY.of_labels(["embed->logits"]),
    } | change
    with pytest.raises(InterpError) as caught:
        auroc(TINY, **given)
    assert caught.value.code == code
    if "variant" not in change:
        with pytest.raises(InterpError) as caught:
            average_precision(TINY, **given)
        assert caught.value.code == code
