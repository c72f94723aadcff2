"""Overlaps counted by hand, and their chances against all sets of a small graph and against permutations made one by one."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest

from interp.circuits.graph.graph import Graph, LayerShape
from interp.circuits.judging.overlap import Overlap, chance_jaccard, edge_overlap, node_overlap
from interp.kernels.errors import InterpError

GRAPH = Graph.of_shape([LayerShape(2, 2)] * 2)
ONE = GRAPH.of_labels(["embed->L0H0.v", "embed->L0H1.v", "L0H0->logits", "L0H1->M1", "M1->logits"])
TWO = GRAPH.of_labels(["embed->L0H0.v", "L0H0->logits", "L0H0->M1", "M1->logits"])


def test_what_is_shared_is_counted_with_each_denominator() -> None:
    found = edge_overlap(GRAPH, ONE, TWO)
    assert (found.first, found.second, found.total, found.shared) == (5, 4, GRAPH.n_edges, 3)
    assert (found.of_first, found.of_second, found.of_smaller, found.of_union) == (3 / 5, 3 / 4, 3 / 4, 3 / 6)
    assert str(found).startswith(
        f"3 edges shared by circuits of 5 and 4 of {GRAPH.n_edges}: 0.75 of the smaller (4), 0.5 of"
    )
    nodes = node_overlap(GRAPH, ONE, TWO)  # L0H0, L0H1, M1; L0H0, M1
    assert (nodes.first, nodes.second, nodes.total, nodes.shared) == (3, 2, 6, 2)
    assert nodes.of_smaller == 1


@pytest.mark.parametrize("total, a, b", [(6, 2, 3), (7, 4, 5), (5, 5, 2), (6, 0, 3)])
def test_chance_is_that_of_all_sets(total: int, a: int, b: int) -> None:
    first = set(range(a))
    shared = [len(first & set(second)) for second in itertools.combinations(range(total), b)]
    assert chance_jaccard(total, a, b) == pytest.approx(np.mean([k / (a + b - k) for k in shared]), abs=1e-12)
    assert a * b / total == pytest.approx(np.mean(shared), abs=1e-12)


def test_the_tail_is_exact() -> None:
    found = edge_overlap(GRAPH, ONE, TWO)
    total = GRAPH.n_edges
    tail = sum(comb(5, k) * comb(total - 5, 4 - k) for k in (3, 4)) / comb(total, 4)
    assert found.p == pytest.approx(tail, rel=1e-10)
    assert found.expected == pytest.approx(20 / total)
    assert edge_overlap(GRAPH, ONE, GRAPH.full).p == pytest.approx(1)
    assert edge_overlap(GRAPH, ONE, GRAPH.none).p == 1


def test_the_matched_chance_is_that_of_permutations_within_classes() -> None:
    graph = Graph.of_shape([LayerShape(4, 2), LayerShape(4, 2)]).at_places(("subject", "end"))
    rng = np.random.default_rng(0)
    first, second = (graph.full & (rng.random(graph.full.shape) < share) for share in (0.3, 0.4))
    second |= first & (rng.random(graph.full.shape) < 0.2)
    classes: dict[object, list[int]] = {}
    for number, label in enumerate(graph.labels()):
        edge, place = label.split("@")
        writer, reader = edge.split("->")
        source = writer if writer == "embed" else (writer[:2], "H" in writer)
        target = reader if reader in ("logits", "M0", "M1") else (reader[:2], reader[-1])
        classes.setdefault((place, source, target), []).append(number)
    ones, twos = first[graph.full], second[graph.full]
    shared = []
    for _ in range(3000):
        permuted = twos.copy()
        for members in classes.values():
            permuted[members] = rng.permutation(twos[members])
        shared.append((ones & permuted).sum())
    found = edge_overlap(graph, first, second)
    error = np.std(shared) / np.sqrt(3000)
    assert found.matched == pytest.approx(np.mean(shared), abs=4 * error)
    tail = np.mean(np.array(shared) >= found.shared)
    assert 0.001 < found.p_matched < 0.5
    assert found.p_matched == pytest.approx(tail, abs=4 * np.sqrt(found.p_matched / 3000))
    assert found == edge_overlap(graph, first, second)
    assert found.p_matched != edge_overlap(graph, first, second, seed=1).p_matched


def test_circuits_of_whole_layers_are_no_news_to_the_matched_chance() -> None:
    late = np.zeros_like(GRAPH.full)
    late[:, :, -1] = True
    found = edge_overlap(GRAPH, late & GRAPH.full, late & GRAPH.full)
    assert found.p < 1e-6
    assert found.p_matched == 1 and found.matched == found.shared == len(GRAPH.writers)


def test_nodes_are_told_apart_by_place_and_embeddings_do_not_count() -> None:
    graph = GRAPH.at_places(("subject", "end"))
    first = graph.of_labels(["embed->L0H0.v@subject", "L0H0->logits@end", "embed->logits@end"])
    second = graph.of_labels(["embed->L0H0.v@subject", "L0H0->M1@subject", "M1->logits@subject", "L0H0->logits@end"])
    found = node_overlap(graph, first, second)
    assert (found.first, found.second, found.shared, found.total) == (1, 3, 1, 12)
    same_kind = 1 * 1 / 2  # L0H0 at the end, among two heads of that layer and place
    assert found.matched == same_kind
    assert found.p_matched == pytest.approx(0.5, abs=0.03)


def test_random_circuits_have_p_values_that_are_spread_evenly() -> None:
    rng = np.random.default_rng(1)
    draws = rng.random((300, 2, *GRAPH.full.shape)) < 0.3
    found = [edge_overlap(GRAPH, *(GRAPH.full & draw), n_draws=99) for draw in draws]
    for name in ("p", "p_matched"):
        p = np.array([getattr(one, name) for one in found])
        for level in (0.1, 0.3):
            assert (p <= level).mean() <= level + 0.05


def test_circuits_of_two_models_need_graphs_of_one_shape() -> None:
    twin = Graph.of_shape([LayerShape(2, 2)] * 2)
    assert edge_overlap(GRAPH, ONE, TWO, of=twin) == edge_overlap(GRAPH, ONE, TWO)
    others = [
        Graph.of_shape([LayerShape(2, 2)] * 3),
        Graph.of_shape([LayerShape(2, 2, is_parallel=True)] * 2),
        Graph.of_shape([LayerShape(2, 1)] * 2),
        Graph.of_shape([LayerShape(2, 2)] * 2, ("embed", "pos_embed")),
        GRAPH.at_places(("end",)),
    ]
    for other in others:
        for overlap in (edge_overlap, node_overlap):
            with pytest.raises(InterpError, match="graphs differ") as caught:
                overlap(GRAPH, ONE, TWO, of=other)
            assert caught.value.code == "E205"
    with pytest.raises(InterpError) as caught:
        edge_overlap(GRAPH, ONE[:, :2], TWO[:, :2])
    assert caught.value.code == "E206"


def test_empty_circuits_share_nothing_of_nothing() -> None:
    found = edge_overlap(GRAPH, GRAPH.none, GRAPH.none)
    assert isinstance(found, Overlap) and found.shared == 0
    assert np.isnan([found.of_first, found.of_smaller, found.of_union, found.chance_of_union]).all()
