"""Learned masks: their distribution, what they find in planted models, and learning that is taken up again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.circuits.edges.ensemble import warm_start
from interp.circuits.edges.exact import exact
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.pruning import Pruning, attributed, drawn, expected, largest, prune
from interp.kernels.errors import InterpError
from tests.cases.edges import contrasted, opened, paired


def test_masks_are_open_as_often_as_expected() -> None:
    logits = torch.linspace(-3, 3, 7)
    noise = torch.rand(20000, 7, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)
    masks = drawn(logits, noise)
    assert ((masks > 0).float().mean(0) - expected(logits)).abs().max() < 0.02
    assert masks.min() == 0 and masks.max() == 1 and ((masks > 0) & (masks < 1)).any()


def test_the_largest_are_chosen_among_edges_that_exist() -> None:
    full = np.array([[[True, True], [False, True]]])
    scores = np.array([[[1.0, 3.0], [9.0, 2.0]]])
    assert largest(full, scores, 2).tolist() == [[[False, True], [False, True]]]


def test_targets_fall_to_the_size() -> None:
    how = Pruning(size=0.04, steps=10, ramp=0.5)
    targets = [how.target(step) for step in range(10)]
    assert targets == sorted(targets, reverse=True)
    assert targets[4:] == pytest.approx([0.04] * 6)


@pytest.mark.parametrize("loss", ["kl", "metric"])
def test_learned_masks_beat_random_circuits_of_their_size(loss: str) -> None:
    contrast = contrasted(*paired(opened("llama")))
    found = prune(contrast, Pruning(size=0.3, steps=80, loss=loss, samples=1, rate=0.3))
    size, graph = int(found.circuit.sum()), contrast.flow.graph
    assert size == round(0.3 * graph.n_edges)
    assert abs(found.state.sizes[-1] - 0.3) < 0.15, "masks must have come near the size"
    draw = np.random.default_rng(0)
    others = [largest(graph.full, draw.random(graph.full.shape), size) for _ in range(20)]
    values = MaskedRuns(contrast).values([graph.full, *others]).mean(1).numpy()
    mine = float(found.value.mean())
    if loss == "kl":
        assert abs(mine - values[0]) < np.median(abs(values[1:] - values[0]))
    else:
        assert mine > values[1:].max()
    assert (found.scores[~graph.full] == 0).all()


def test_learning_taken_up_again_ends_the_same() -> None:
    contrast = contrasted(*paired(opened("gpt2")))
    how = Pruning(size=0.3, steps=8, seed=3)
    whole = prune(contrast, how)
    first = prune(contrast, how, until=3)
    assert first.state.step == 3 and len(first.state.losses) == 3
    second = prune(contrast, how, state=first.state)
    assert (second.scores == whole.scores).all() and second.state.losses == whole.state.losses
    other = prune(contrast, Pruning(size=0.3, steps=8, seed=4))
    assert not (other.scores == whole.scores).all()


def test_a_warm_start_is_where_learning_begins() -> None:
    contrast = contrasted(*paired(opened("gpt2")))
    graph = contrast.flow.graph
    start = warm_start(graph, exact(contrast).scores.mean(0).numpy(), 0.4)
    found = prune(contrast, Pruning(size=0.3, steps=1, rate=1e-9), start=start)
    shares = 1 / (1 + np.exp(-graph.vector(found.scores)))
    assert shares == pytest.approx(graph.vector(start), abs=1e-5)


def test_scores_are_one_row() -> None:
    contrast = contrasted(*paired(opened("gpt2")))
    how = Pruning(size=0.3, steps=2)
    found = attributed(contrast, how)
    assert found.scores.shape == (1, *contrast.flow.graph.full.shape)
    assert found.forwards >= 2 * how.samples * 3


@pytest.mark.parametrize("wrong", [{"size": 0.0}, {"size": 1.0}, {"steps": 0}, {"loss": "l2"}, {"samples": 0}])
def test_bad_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(InterpError, match="E205"):
        Pruning(**wrong)  # type: ignore[arg-type]
