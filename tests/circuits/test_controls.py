"""Matched controls against a naive search, and the properties of random sets."""

from __future__ import annotations

import numpy as np
import pytest

from interp.circuits.controls import matched_controls, matched_random_sets, norm_distance
from interp.kernels.errors import InterpError

LAYERS = np.repeat(np.arange(3), 6)


def norms(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(size=len(LAYERS))


def test_controls_are_the_nearest_heads_of_the_layer() -> None:
    output_norm = norms()
    found = matched_controls(output_norm, LAYERS, 3)
    for head, indices in enumerate(found.indices):
        others = [other for other in range(len(LAYERS)) if other != head and LAYERS[other] == LAYERS[head]]
        expected = sorted(others, key=lambda other: abs(np.log(output_norm[other] / output_norm[head])))[:3]
        assert list(indices) == expected
    assert set(found.notes) == {""}


def test_a_small_layer_gives_fewer_controls_and_says_so() -> None:
    found = matched_controls(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 0]), 5)
    assert found.indices == ((1, 2), (2, 0), (1, 0))
    assert set(found.notes) == {"2 controls: the layer has no more heads"}


def test_a_head_alone_in_its_layer_takes_the_nearest_layers_and_says_so() -> None:
    layers = np.array([0, 1, 1, 2, 3])
    found = matched_controls(np.array([1.0, 8.0, 2.0, 1.0, 1.0]), layers, 2)
    assert found.indices[0] == (2, 1)
    assert found.notes[0] == "alone in its layer: controls come from layer 1"
    assert found.indices[4] == (3, 2)
    assert found.notes[4] == "alone in its layer: controls come from layer 1, 2"
    assert found.indices[1] == (2,)


def test_the_only_head_has_no_controls() -> None:
    found = matched_controls(np.array([1.0]), np.array([0]), 4)
    assert found.indices == ((),)
    assert found.notes == ("no controls: the model has one head",)


def test_heads_that_write_nothing_match_each_other_first() -> None:
    distance = norm_distance(np.array([0.0, 0.0, 1.0, np.nan]), 0)
    assert distance.tolist() == [0, 0, np.inf, np.inf]
    assert matched_controls(np.array([0.0, 1.0, 0.0]), np.array([0, 0, 0]), 1).indices[0] == (2,)


def test_random_sets_keep_layers_and_leave_the_target_out() -> None:
    target = {0, 3, 7, 12, 13, 14}
    sets = matched_random_sets(target, norms(), LAYERS, n_sets=40, rng=np.random.default_rng(1))
    wanted = sorted(LAYERS[sorted(target)])
    for chosen in sets:
        assert sorted(LAYERS[list(chosen)]) == wanted
        assert len(set(chosen)) == len(target)
        assert not target & set(chosen)
    assert len(set(sets)) > 1
    assert sets == matched_random_sets(target, norms(), LAYERS, n_sets=40, rng=np.random.default_rng(1))


def test_random_sets_prefer_similar_norms_in_the_stated_proportion() -> None:
    output_norm, layers = np.array([1.0, 1.0, 0.5, 4.0]), np.zeros(4, dtype=int)
    sets = matched_random_sets({0}, output_norm, layers, n_sets=7000, rng=np.random.default_rng(2))
    counts = np.bincount([chosen[0] for chosen in sets], minlength=4)
    np.testing.assert_allclose(counts / 7000, np.array([0, 1, 0.5, 0.25]) / 1.75, atol=0.03)


def test_a_set_that_leaves_too_few_heads_is_refused() -> None:
    with pytest.raises(InterpError) as caught:
        matched_random_sets({0, 1, 2, 3}, norms(), LAYERS, n_sets=1, rng=np.random.default_rng(0))
    assert caught.value.code == "E205"
    assert caught.value.where == "layer 0"


def test_an_empty_set_has_empty_controls() -> None:
    assert matched_random_sets(set(), norms(), LAYERS, n_sets=2, rng=np.random.default_rng(0)) == ((), ())
