"""Faithfulness against ratios by hand, baselines against their definitions, and weights that come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.circuits.edges.attribution import Contrast, along_inputs, points
from interp.circuits.edges.optimal import Learning
from interp.circuits.edges.replacements import REPLACEMENTS, stand_in
from interp.circuits.graph.graph import Graph, LayerShape, Scores
from interp.circuits.judging.baselines import (
    magnitude,
    of_size,
    permuted_heads,
    ranked,
    shuffled,
    shuffled_within,
)
from interp.circuits.judging.comparison import compared, permuted_scores
from interp.circuits.judging.faithfulness import faithfulness
from interp.circuits.judging.selection import top_n
from interp.circuits.judging.trials import Trials
from interp.kernels.errors import InterpError
from tests.cases.posed import planted

SHAPE = Graph.of_shape([LayerShape(2, 2), LayerShape(2, 1), LayerShape(2, 2, is_parallel=True)], ("embed", "pos_embed"))


def integrated(contrast: Contrast) -> Scores:
    """EAP-IG, mean over prompts."""
    return along_inputs(contrast, points("midpoint", 5)).scores.mean(0).double().numpy()


def test_every_replacement_stands_in_one_table() -> None:
    """The true circuit of each replacement is faithful under it; without positions it is not under zeros."""
    case = planted("planted-induction")
    circuits = {"program": case.edges("program"), "resample": case.edges("resample"), "none": case.flow.graph.none}
    found = faithfulness(
        case.flow, circuits, case.judged, case.taken, learning=Learning(rate=0.02, steps=20, every=10), n_boot=200
    )
    assert len(found.rows) == len(REPLACEMENTS) * 3 and found.shared == 0
    assert found.row("program", "resample").f.value == pytest.approx(1, abs=0.01)
    assert found.row("resample", "resample").f.value == pytest.approx(1, abs=0.01)
    assert found.row("resample", "zero").f.high < 0.5
    for row in found.rows:
        by_hand = (row.values - row.empty).mean() / (row.full - row.empty).mean()
        assert row.f.value == pytest.approx(by_hand, abs=1e-9) and row.f.low <= row.f.value + 1e-9
        assert row.n_edges == circuits[row.circuit].sum()
        if row.circuit == "none":
            np.testing.assert_allclose(row.values, row.empty)
    for name in REPLACEMENTS:
        assert name in str(found) and name in found._repr_html_()
    assert "16 clean prompts" in found.row("program", "mean").taken_from


def test_prompts_in_parts_give_the_same_numbers() -> None:
    case = planted("planted-induction")
    stand, circuits = stand_in("resample", case.flow, case.taken), [case.edges("resample"), case.flow.graph.none]
    whole, parts = (Trials(case.flow, case.judged, stand, prompts) for prompts in (64, 5))
    np.testing.assert_allclose(whole(circuits), parts(circuits), atol=1e-4)
    assert len(parts.contrasts) == 4 and parts.forwards == pytest.approx(whole.forwards)


def test_edges_at_places_add_up_to_edges_everywhere() -> None:
    case = planted("planted-induction", 16)
    stand, edges = stand_in("resample", case.flow, case.taken), case.edges("resample")
    placed = replace(case.flow, graph=case.flow.graph.at_places(("early", "late")))
    place_of = (torch.arange(case.judged.mask.shape[1]) > 5).long().expand(len(case.judged), -1)
    whole = Trials(case.flow, case.judged, stand)
    apart = Trials(placed, replace(case.judged, place_of=place_of), stand, prompts=3)
    circuits = [edges, case.flow.graph.none]
    np.testing.assert_allclose(apart([np.repeat(one, 2, 0) for one in circuits]), whole(circuits), atol=1e-4)
    np.testing.assert_allclose(magnitude(apart.contrasts).sum(0), magnitude(whole.contrasts)[0], rtol=1e-4, atol=1e-5)
    half = placed.graph.full & np.array([True, False])[:, None, None]
    assert not np.allclose(apart([half]), whole([case.flow.graph.full]), atol=0.1)


def test_no_gap_is_said_and_not_a_number() -> None:
    case = planted("planted-induction")
    same = replace(case.judged, corrupt=case.judged.question.batch)
    found = faithfulness(
        case.flow, {"c": case.edges("resample")}, same, case.taken, replacements=("resample", "zero"), n_boot=50
    )
    row = found.row("c", "resample")
    assert np.isnan(row.f.value) and "no clean-ablated gap" in row.note
    assert not found.row("c", "zero").note


def test_prompts_that_judge_are_others_than_those_that_means_come_from() -> None:
    case = planted("planted-induction")
    circuit = {"c": case.edges("resample")}
    with pytest.raises(InterpError, match="every prompt that judges"):
        faithfulness(case.flow, circuit, case.taken, case.taken, replacements=("mean",))
    faithfulness(case.flow, circuit, case.taken, case.taken, replacements=("resample",), n_boot=50)
    with pytest.raises(InterpError, match="no replacement 'mode'"):
        faithfulness(case.flow, circuit, case.judged, case.taken, replacements=("mode",))


@pytest.mark.parametrize("n", [1, 4, 9, 20, 60, SHAPE.n_edges])
def test_random_circuits_have_the_size_that_is_asked_and_hold_together(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(5):
        order = shuffled(SHAPE, rng)
        found = of_size(SHAPE, order, n)
        assert (SHAPE.pruned(found) == found).all()
        assert n <= found.sum() <= n + 3
        if found.sum() > n:  # what is too much holds together: no single edge can be given back
            for edge in np.argwhere(found):
                fewer = found.copy()
                fewer[tuple(edge)] = False
                assert SHAPE.pruned(fewer).sum() < n
        if n >= 9:
            assert found.sum() == n


def test_the_best_edges_are_in_a_circuit_of_their_number() -> None:
    scores = np.zeros(SHAPE.full.shape)
    path = ["embed->L0H1.v", "L0H1->L1H0.q", "L1H0->logits"]
    for label in path:
        scores[SHAPE.edge(label)] = -3
    assert SHAPE.labels(of_size(SHAPE, ranked(SHAPE, scores), 3)) == sorted(path, key=SHAPE.labels().index)


def test_scores_are_permuted_among_readers_of_one_layer_and_part() -> None:
    rng = np.random.default_rng(0)
    scores = SHAPE.matrix(rng.permutation(SHAPE.n_edges).astype(float) + 1)
    order = shuffled_within(SHAPE, scores, rng)
    _, _, readers = np.nonzero(SHAPE.full)
    classes = np.array([f"{SHAPE.readers[reader].layer}{SHAPE.readers[reader].part}" for reader in readers])
    before = ranked(SHAPE, scores)
    assert (classes[order] == classes[before]).all() and (order != before).any()
    assert sorted(order) == sorted(before)


def test_magnitude_is_the_size_of_what_writers_change() -> None:
    case = planted("planted-induction-postnorm", 16)
    contrast = stand_in("resample", case.flow, case.taken).contrast(case.flow, case.judged)
    found, graph = magnitude([contrast]), case.flow.graph
    cut = Trials(case.flow, case.judged, stand_in("resample", case.flow, case.taken), prompts=3)
    np.testing.assert_allclose(magnitude(cut.contrasts), found, rtol=1e-4, atol=1e-5)
    for label in ("embed->L0H0.q", "L0H2->L1H1.v", "M0->logits", "L1H2->logits"):
        _, writer, reader = graph.edge(label)
        part, total = graph.writers[writer], 0.0
        for row in range(len(case.judged)):
            for at in range(int(case.judged.mask[row].sum())):
                clean, other = (
                    side.embed["embed"][row, at] if part.kind == "embed"
                    else side.mlp[part.layer][row, at] if part.kind == "mlp"
                    else side.heads[part.layer][row, at, part.head]
                    for side in (contrast.clean, contrast.ablated)
                )  # fmt: skip
                total += float((clean - other).norm())
        assert found[0, writer, reader] == pytest.approx(total / len(case.judged), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["planted-induction", "planted-induction-rmsnorm"])
def test_heads_write_through_each_others_weights_and_get_their_own_back(name: str) -> None:
    model = planted(name).flow.model
    before = [model.w_out(layer).clone() for layer in range(2)]
    with pytest.raises(ZeroDivisionError), permuted_heads(model, 3):
        for layer in range(2):
            moved, own = model.w_out(layer), before[layer]
            for head in range(4):
                at = [other for other in range(4) if torch.equal(moved[head], own[other])]
                assert at and (head not in at or bool((own[head] == own[at[0]]).all()) and len(at) > 1)
        raise ZeroDivisionError
    assert all(torch.equal(model.w_out(layer), before[layer]) for layer in range(2))


def test_a_curve_stands_beside_baselines_of_its_actual_sizes() -> None:
    case, graph = planted("planted-induction"), planted("planted-induction").flow.graph
    stand = stand_in("resample", case.flow, case.taken)
    scores = integrated(stand.contrast(case.flow, case.taken))
    circuits = [top_n(graph, scores, n) for n in (5, 16, graph.n_edges)]
    sizes = [one.actual for one in circuits]
    trials = Trials(case.flow, case.judged, stand)
    rescored = permuted_scores(Trials(case.flow, case.taken, stand), integrated)
    found = compared(trials, circuits, scores, rescored={"permuted weights": rescored}, n_random=10, n_boot=100)
    assert found.edges == tuple(sizes) and sizes[1] < 16
    assert found.own.f == pytest.approx([1, 1, 1], abs=0.02)
    assert abs(found.others["permuted weights"].f[1]) < 0.5 and found.others["magnitude"].f[0] < 0.9
    for band in found.bands.values():
        assert band.f.shape == band.edges.shape == (10, 3) and band.edges[:, -1].tolist() == [graph.n_edges] * 10
        assert (band.edges[:, 1] == sizes[1]).all()
        np.testing.assert_allclose(band.f[:, -1], 1)
        by_hand = (np.abs(1 - band.f) > np.abs(1 - found.own.f)).mean(0)
        np.testing.assert_allclose(band.beaten, by_hand)
    assert found.bands["random"].beaten[0] >= 0.8
    areas = found.area("cmd", scale="log")
    assert areas[""].value < areas["magnitude"].value < areas["permuted weights"].value
    assert "permuted scores" in str(found) and "<table>" in found._repr_html_()
