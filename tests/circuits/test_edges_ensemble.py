"""Scores put together, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest

from interp.circuits.edges.ensemble import KEEP, combined, warm_start
from interp.circuits.graph.graph import Graph, LayerShape
from interp.kernels.errors import InterpError

GRAPH = Graph.of_shape([LayerShape(1, 1, has_mlp=False)])
"""embed->q, embed->k, embed->v, embed->logits, L0H0->logits."""


def scores(*values: float) -> np.ndarray:
    return GRAPH.matrix(np.array(values, dtype=np.float64))


def vector(values: np.ndarray) -> list[float]:
    return [float(value) for value in GRAPH.vector(values)]


def test_ranks_share_ties_and_know_no_unit() -> None:
    one, other = scores(1, 2, 2, 3, -9), scores(500, 100, 300, 200, 400)
    assert vector(combined(GRAPH, [one], "ranks")) == [0.25, 0.625, 0.625, 1.0, 0.0]
    expected = [(0.25 + 1) / 2, (0.625 + 0) / 2, (0.625 + 0.5) / 2, (1 + 0.25) / 2, (0 + 0.75) / 2]
    assert vector(combined(GRAPH, [one, other], "ranks")) == expected
    assert vector(combined(GRAPH, [one, 1000 * other], "ranks")) == expected


@pytest.mark.parametrize("rule, expected", [("mean", 0.0), ("min", -1.0), ("max", 1.0)])
def test_standardised_scores_keep_signs(rule: str, expected: float) -> None:
    one, other = scores(1, 1, 1, 1, 1), -50 * scores(1, 1, 1, 1, 1)
    assert vector(combined(GRAPH, [one, other], rule)) == [expected] * 5
    assert vector(combined(GRAPH, [one, other], rule, absolute=True)) == [1.0] * 5


def test_scores_of_nothing_stay_nothing() -> None:
    assert vector(combined(GRAPH, [scores(0, 0, 0, 0, 0), scores(0, 0, 0, 0, 5)], "mean"))[:4] == [0.0] * 4
    assert (combined(GRAPH, [scores(1, 2, 3, 4, 5)], "max")[~GRAPH.full] == 0).all()


@pytest.mark.parametrize("size", [0.2, 0.5, 0.8])
def test_warm_starts_have_the_size_and_the_order_asked_for(size: float) -> None:
    given = scores(5, -1, 3, 2, 1)
    shares = np.array(vector(warm_start(GRAPH, given, size)))
    assert shares.mean() == pytest.approx(size, abs=1e-6)
    assert (np.argsort(-shares, kind="stable")[:2] == [0, 2]).all()
    assert shares.min() >= 1 - KEEP - 1e-12 and shares.max() <= KEEP + 1e-12


def test_what_cannot_be_combined() -> None:
    with pytest.raises(InterpError, match="E201"):
        combined(GRAPH, [scores(1, 2, 3, 4, 5)], "median")
    with pytest.raises(InterpError, match="E205"):
        combined(GRAPH, [])
    with pytest.raises(InterpError, match="E205"):
        combined(GRAPH, [scores(1, 2, 3, float("nan"), 5)])
