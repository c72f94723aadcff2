"""Selections against naive ones, and what pruning leaves of them."""

from __future__ import annotations

import numpy as np
import pytest

from interp.circuits.graph.graph import Graph, LayerShape
from interp.circuits.judging.selection import SHARES, above, best, greedy, sizes, strengths, top_n
from interp.kernels.errors import InterpError

GRAPHS = {
    "plain": Graph.of_shape([LayerShape(2, 2), LayerShape(2, 2)]),
    "parallel": Graph.of_shape([LayerShape(2, 2, is_parallel=True)] * 2, ("embed", "pos_embed")),
    "grouped": Graph.of_shape([LayerShape(4, 2)] * 2),
    "attention only": Graph.of_shape([LayerShape(3, 1, has_mlp=False)] * 2),
    "places": Graph.of_shape([LayerShape(2, 1)] * 2).at_places(("subject", "end")),
}


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> Graph:
    return GRAPHS[request.param]


def tied_scores(graph: Graph, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, graph.full.shape) / 2


def naive_greedy(graph: Graph, scores: np.ndarray, n: int, absolute: bool) -> np.ndarray:
    """Look at every edge in every step, and take the best whose reader feeds a part that is in."""
    nodes: set[tuple[int, int]] = set()
    chosen = graph.none
    for _ in range(n):
        open_to = {(place, len(graph.readers) - 1) for place in range(len(graph.places))}
        for place, writer in nodes:
            part = graph.writers[writer]
            for reader in graph.inputs_of(part):
                is_moved = graph.readers[reader].part in ("k", "v")
                open_to |= {(other, reader) for other in range(len(graph.places)) if is_moved or other == place}
        found = None
        for place, writer, reader in zip(*np.nonzero(graph.full & ~chosen), strict=True):
            value = abs(scores[place, writer, reader]) if absolute else scores[place, writer, reader]
            if (place, reader) in open_to and (found is None or value > found[0]):
                found = value, place, writer, reader
        assert found is not None
        chosen[found[1:]] = True
        nodes.add((found[1], found[2]))
    return chosen


@pytest.mark.parametrize("absolute", [True, False])
def test_greedy_growth_equals_a_search_over_all_edges_at_each_step(graph: Graph, absolute: bool) -> None:
    for seed, n in enumerate((1, 3, 7, graph.n_edges // 2, graph.n_edges)):
        scores = tied_scores(graph, seed)
        found = greedy(graph, scores, n, absolute=absolute)
        expected = naive_greedy(graph, scores, n, absolute)
        np.testing.assert_array_equal(found.edges, graph.pruned(expected))
        assert found.asked == n == expected.sum()


def test_growth_follows_keys_and_values_to_other_places_and_queries_to_their_own() -> None:
    graph = GRAPHS["places"]
    scores = graph.none.astype(float)
    moved = ["L0H0->logits@end", "embed->L0KV0.v@subject"]
    stuck = "embed->L0H0.q@subject"
    for label, score in zip([*moved, stuck], (9.0, 8.0, 8.5), strict=True):
        scores[graph.edge(label)] = score
    np.testing.assert_array_equal(greedy(graph, scores, 2).edges, graph.of_labels(moved))


@pytest.mark.parametrize("absolute", [True, False])
def test_the_best_n_equal_a_sort_by_hand_with_ties_in_the_order_of_labels(graph: Graph, absolute: bool) -> None:
    scores = tied_scores(graph, 7)
    where = dict(zip(graph.labels(), zip(*np.nonzero(graph.full), strict=True), strict=True))
    value = {label: abs(scores[index]) if absolute else scores[index] for label, index in where.items()}
    ranked = sorted(value, key=lambda label: -value[label])
    for n in (0, 1, 5, 11, graph.n_edges):
        expected = graph.of_labels(ranked[:n])
        np.testing.assert_array_equal(best(graph, scores, n, absolute=absolute), expected)
        found = top_n(graph, scores, n, absolute=absolute)
        np.testing.assert_array_equal(found.edges, graph.pruned(expected))
        assert (found.asked, found.actual) == (n, graph.pruned(expected).sum())


def test_all_above_a_threshold_includes_the_threshold() -> None:
    graph = GRAPHS["plain"]
    scores = np.where(graph.full, 0.25, 9.0)
    scores[graph.edge("embed->logits")] = -0.5
    assert above(graph, scores, 0.25, absolute=True).asked == graph.n_edges
    assert above(graph, scores, 0.25, absolute=False).asked == graph.n_edges - 1
    one = above(graph, scores, 0.5)
    assert graph.labels(one.edges) == ["embed->logits"]
    assert above(graph, scores, 0.6).actual == 0


def test_pruning_is_counted() -> None:
    graph = GRAPHS["plain"]
    scores = graph.none.astype(float)
    for label, score in {"embed->L0H0.v": 5.0, "L0H0->M1": 4.0, "embed->logits": 3.0, "M1->logits": 2.0}.items():
        scores[graph.edge(label)] = score
    two, three, four = (top_n(graph, scores, n) for n in (2, 3, 4))
    assert (two.asked, two.actual) == (2, 0)
    assert (three.asked, three.actual) == (3, 1)
    assert (four.asked, four.actual) == (4, 4)
    assert four.actual_share == 4 / graph.n_edges
    assert graph.labels(greedy(graph, scores, 3).edges) == ["embed->logits"]  # L0H0->M1 is in, its input is not yet
    assert greedy(graph, scores, 4).actual == 4


def test_growing_circuits_hold_each_other(graph: Graph) -> None:
    scores = np.random.default_rng(0).normal(size=graph.full.shape)
    for way in (top_n, greedy):
        cuts = [way(graph, scores, n).edges for n in range(0, graph.n_edges + 1, 3)]
        assert all((small <= large).all() for small, large in zip(cuts, cuts[1:], strict=False))
    assert greedy(graph, scores, graph.n_edges).actual == graph.n_edges


def test_sizes_are_those_of_the_benchmark_on_the_gpt2_graph() -> None:
    graph = Graph.of_shape([LayerShape(12, 12)] * 12)
    assert graph.n_edges == 32491
    assert sizes(graph) == (32, 64, 162, 324, 649, 1624, 3249, 6498, 16245, 32491)
    assert sizes(graph, (0.25,)) == (8122,)
    assert len(SHARES) == 10


def test_what_cannot_be_ranked_is_refused() -> None:
    graph = GRAPHS["places"]
    scores = np.zeros(graph.full.shape)
    for n in (-1, graph.n_edges + 1):
        for way in (top_n, greedy):
            with pytest.raises(InterpError, match="edges asked of") as caught:
                way(graph, scores, n)
            assert caught.value.code == "E203"
    with pytest.raises(InterpError) as caught:
        strengths(graph, scores[:1], absolute=True)
    assert caught.value.code == "E206"
    scores[graph.edge("L0H1->L1H1.q@end")] = np.nan
    with pytest.raises(InterpError, match="1 of ") as caught:
        top_n(graph, scores, 2)
    assert (caught.value.code, caught.value.where) == ("E207", "L0H1->L1H1.q@end")
    scores = np.where(graph.full, scores, np.nan)  # where there is no edge, nothing is asked of a score
    scores[graph.edge("L0H1->L1H1.q@end")] = np.inf
    assert graph.labels(best(graph, scores, 1)) == ["L0H1->L1H1.q@end"]
