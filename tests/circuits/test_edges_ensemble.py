"""Scores put together, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.circuits.edges.attribution import PULL, Attribution, Contrast
from interp.circuits.edges.ensemble import KEEP, combined, warm_start
from interp.circuits.edges.methods import METHODS, Settings
from interp.circuits.edges.pruning import OPEN, Pruning, expected
from interp.circuits.graph.graph import Graph, LayerShape
from interp.kernels.errors import InterpError
from tests.cases.edges import contrasted, opened, paired

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


def contrast() -> Contrast:
    return contrasted(*paired(opened("gpt2")))


def run(name: str, **settings: object) -> Attribution:
    return METHODS[name].run(contrast(), Settings(steps=2, **settings))


def test_an_ensemble_is_its_members_put_together_and_costs_what_they_cost() -> None:
    apart = [run(name) for name in ("eap", "eap-ig", "mask-gradient")]
    found, graph = run("ensemble", members="eap+eap-ig+mask-gradient", combine="min"), contrast().flow.graph
    expected = combined(graph, [one.scores.double().mean(0).numpy() for one in apart], "min")
    assert found.scores.shape == (1, *graph.full.shape)
    np.testing.assert_allclose(found.scores[0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert found.forwards == sum(one.forwards for one in apart)


def test_learned_masks_begin_with_the_scores_of_another_method() -> None:
    """The first step of Adam moves no log-alpha by more than its rate."""
    case = contrast()
    first, graph = METHODS["eap"].run(case, Settings()), case.flow.graph
    shares = warm_start(graph, np.abs(first.scores.double().mean(0).numpy()), 0.2)
    for start, begun in (("eap", graph.vector(shares)), ("", np.full(graph.n_edges, OPEN))):
        found = METHODS["pruning"].run(case, Settings(epochs=1, size=0.2, start=start))
        chances = torch.from_numpy(graph.vector(found.scores[0].double().numpy()))
        learned = chances.logit() - expected(torch.zeros(1)).logit()
        moved = (learned.numpy() - np.log(begun / (1 - begun))) / Pruning.rate
        assert 0.9 < np.abs(moved).max() < 1.001
        assert found.forwards == 2 * PULL + 1 + (first.forwards if start else 0)


@pytest.mark.parametrize(
    "settings, code",
    [({"members": "eap+ensemble"}, "E205"), ({"members": "eap+epa"}, "E201"), ({"combine": "median"}, "E201")],
)
def test_ensembles_that_cannot_be(settings: dict[str, str], code: str) -> None:
    with pytest.raises(InterpError, match=code):
        run("ensemble", **settings)
