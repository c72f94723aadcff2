"""Curves, agreement and the deceptive control, held against loops and a model whose deciding token is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import interp
from interp.circuits.question import Question
from interp.hooks.metrics import metric
from interp.hooks.pairs import tokenise
from interp.maps import method
from interp.maps.chance import drawn
from interp.maps.collect import removable
from interp.maps.construction import fooled_by_construction
from interp.maps.curves import agreement, areas, counts, curves, places
from interp.maps.deception import deceive
from interp.maps.judging import contest, fooled_rows
from interp.maps.look import Look
from interp.maps.removal import WAYS, leave_one_out, removal
from interp.maps.suppression.occlusion import LeaveOneOut
from interp.sinks.settings import TOLERANCE


@cache
def scene(n: int = 4) -> Look:
    model = interp.load("planted-copy")
    examples = interp.task("bundled", model="planted-copy", n=n).examples(model.tokenizer).examples
    pairs = tokenise(model.tokenizer, examples, needs=frozenset({"answer", "distractor"}))
    asked = Question.of(pairs, metric("logit_diff"))
    return Look(model, asked, 0, n, neutral=model.tokenizer.unk_token_id)


def true_places(look: Look) -> list[int]:
    assert look.question.answer is not None
    return [
        int((ids == answer).nonzero()[0])
        for ids, answer in zip(look.batch.input_ids, look.question.answer, strict=True)
    ]


def test_order_is_by_number_and_ties_are_drawn() -> None:
    values = np.array([[[3.0, 1, 1, 1, 9]]])
    tokens = np.array([[True, True, True, True, False]])
    found = [places(values, tokens, np.random.default_rng(seed).random((1, 5)))[0, 0] for seed in range(40)]
    assert all(one[0] == 0 and one[4] == 4 for one in found)
    assert {tuple(one[1:4]) for one in found} == {(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)}


def test_steps_take_equal_shares_and_end_with_all() -> None:
    assert counts(np.array([10, 3, 1]), 4).T.tolist() == [[0, 3, 5, 8, 10], [0, 1, 2, 2, 3], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize("way", WAYS)
def test_curves_are_those_of_one_run_for_each_step(way: str) -> None:
    look, steps = scene(2), 3
    tokens, rng = removable(look).numpy(), np.random.default_rng(1)
    values = rng.random((2, *tokens.shape))
    found = curves(look, values, tokens, rng.random(tokens.shape), way, steps)
    for index in range(2):
        for row in range(2):
            order = [at for at in np.argsort(-values[index, row]) if tokens[row, at]]
            for step in range(steps + 1):
                n_gone = int(np.floor(step * len(order) / steps + 0.5))
                for curve, gone in ((0, order[:n_gone]), (1, order[n_gone:])):
                    where = torch.zeros(2, tokens.shape[1], dtype=torch.bool)
                    where[row, gone] = True
                    with look.model.edit(removal(look, where, way)):
                        expected = look.metric(look.model(look.batch)[:, -1])[row]
                    assert found[curve, index, step, row] == pytest.approx(float(expected), abs=1e-4)


def test_areas_are_mean_falls_and_rises() -> None:
    curve = np.array([[[[4.0], [1.0], [0.0]]], [[[0.0], [4.0], [4.0]]]])
    assert areas(curve)[:, 0, 0].tolist() == [(0 / 2 + 3 + 4 / 2) / 2, (0 / 2 + 4 + 4 / 2) / 2]


def test_agreement_is_spearmans_correlation() -> None:
    rng = np.random.default_rng(0)
    values, effects = rng.integers(4, size=(3, 2, 9)).astype(float), rng.random((2, 9))
    tokens = rng.random((2, 9)) < 0.8
    values[2, 1] = 5.0
    found = agreement(values, effects, tokens)
    for index, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        expected = spearmanr(values[index, row][tokens[row]], effects[row][tokens[row]]).statistic
        assert found[index, row] == pytest.approx(expected)
    assert np.isnan(found[2, 1]), "a flat map has no order"


def test_the_best_method_is_tested_against_the_others() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=30)
    scores = np.stack([base, base + 1 + 0.1 * rng.normal(size=30), base + 1, np.full(30, np.nan)])
    found = contest(scores, range(4), seed=0)
    assert set(found.order) == {0, 1, 2} and found.order[-1] == 0
    assert found.q[found.order[0], 0] < 0.01 and found.tied() == (found.order[1],)


def test_a_faithful_map_takes_the_answer_away_first() -> None:
    look = scene()
    tokens = removable(look)
    effects = leave_one_out(look, tokens, "knockout").numpy()
    assert np.nanargmax(effects, 1).tolist() == true_places(look)
    ties = np.stack([drawn(0, row, 9, tokens.shape[1]) for row in range(4)])
    both = np.stack([method(name).measure(look).double().numpy() for name in ("leave-one-out", "random")])
    deletion, insertion = areas(curves(look, both, tokens.numpy(), ties, "knockout", 7))
    assert (deletion[0] > deletion[1]).all() and (insertion[0] > insertion[1]).all()


def test_moved_attention_keeps_the_answer_and_fools_what_reads_it() -> None:
    look = scene()
    tokens = removable(look)
    effects = leave_one_out(look, tokens, "knockout")
    deceit = deceive(look, effects, tokens, 60)
    assert deceit is not None and deceit.true.tolist() == true_places(look)
    assert float(deceit.change.max()) <= TOLERANCE["kl"] and float(deceit.distance.min()) > 0.2
    assert bool((deceit.mass[:, 3] > deceit.mass[:, 2]).all()), "the decoy gains"
    names = ("rollout", "last-layer", "atman", "leave-one-out", "random")
    before = np.stack([method(name).measure(look).double().numpy() for name in names])
    with look.model.edit(deceit.edit):
        after = Look(look.model, look.question, 0, 4, look.neutral)
        for pattern in after.patterns:
            assert torch.allclose(pattern.sum(-1), torch.ones_like(pattern.sum(-1)))
            assert float(pattern.triu(1).max()) == 0, "no query sees a later key"
        assert np.allclose(after.baseline, look.baseline, atol=0.5)
        moved = np.stack([method(name).measure(after).double().numpy() for name in names])
        left = leave_one_out(after, tokens, "knockout").numpy()
    found = fooled_rows(before, moved, left, deceit.true.numpy(), deceit.decoy.numpy())
    assert np.nanmean(found[:2]) > 0.5 and np.nanmax(found[2:]) == 0
    assert np.isfinite(found[3]).all(), "the token still counts without its attention in the picture"


def test_nothing_is_told_where_the_map_was_wrong_before_or_the_token_counts_no_more() -> None:
    before = np.array([[[1.0, 0], [0, 1], [1, 0], [1, 0]]])
    after = np.array([[[0.0, 1], [0, 1], [0, 1], [1, 0]]])
    effects = np.array([[2.0, 0], [2, 0], [0, 1], [2, 0]])
    zero = np.zeros(4, dtype=int)
    found = fooled_rows(before, after, effects, zero, zero + 1)[0]
    assert found[[0, 3]].tolist() == [1, 0] and np.isnan(found[[1, 2]]).all()


def test_a_model_trained_to_deceive_fools_maps_of_its_pattern_and_none_of_its_input() -> None:
    found = fooled_by_construction(("rollout", "last-layer", LeaveOneOut("neutral"), "input-gradient", "random"))
    assert all(found[name].is_fooled and found[name].deceptive < 0.1 for name in ("rollout", "last-layer"))
    for name in ("leave-one-out (way=neutral)", "input-gradient"):
        assert min(found[name].honest, found[name].deceptive) > 0.99
    assert not found["random"].is_fooled and 0.35 < found["random"].honest < 0.65
