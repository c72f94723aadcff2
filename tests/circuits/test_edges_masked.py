"""Forwards with edges out, against forwards written by hand and against runs from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.exact import exact
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.masked_run import MaskedRun
from interp.circuits.graph.flow import Flow
from interp.zoo.edges import sweep
from tests.cases.edges import ANSWER, DISTRACTOR, HANDS, all_in, asked, by_hand, contrasted, opened, paired, prompts


def circuits(graph: Any, n: int, seed: int = 0) -> list[np.ndarray]:
    """Random ones of all sizes, the full and the empty one among them."""
    draw = np.random.default_rng(seed)
    shares = [1.0, 0.0, *draw.random(n - 2)]
    return [graph.full & (draw.random(graph.full.shape) < share) for share in shares]


@pytest.mark.parametrize("architecture", HANDS)
def test_the_forwards_by_hand_are_those_of_the_models(architecture: str) -> None:
    model = opened(architecture)
    batch = prompts(model, (9, 7), 0)
    logits, _ = all_in(HANDS[architecture](model.adapter.model), batch)  # type: ignore[attr-defined]
    expected = model(batch)
    for row, end in enumerate(batch.end.tolist()):
        assert (logits[row, : end + 1] - expected[row, : end + 1]).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("stands_in", ["resample", "zero", "mean"])
@pytest.mark.parametrize("architecture", HANDS)
def test_circuits_equal_those_by_hand(architecture: str, stands_in: str) -> None:
    model = opened(architecture)
    flow, clean, corrupt = paired(model, side="left" if architecture in ("llama", "gpt2") else "right")
    if stands_in == "mean":  # of prompts without padding
        corrupt = prompts(model, (9, 9), 7)
    hand = HANDS[architecture](model.adapter.model)  # type: ignore[attr-defined]
    changes = {
        "resample": lambda value: value,
        "zero": torch.zeros_like,
        "mean": lambda value: value.mean((0, 1), keepdim=True),
    }
    change = changes[stands_in]
    given = {name: change(value) for name, value in all_in(hand, corrupt)[1].items()}
    contrast = Contrast(flow, asked(clean), flow.record(clean), flow.record(corrupt).map(change))
    some = circuits(flow.graph, 6)
    found = MaskedRuns(contrast).values(some)
    expected = torch.stack([by_hand(hand, flow, clean, given, one) for one in some])
    assert expected.std(0).min() > 1e-2, "the circuits must differ"
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_circuits_with_places_equal_those_by_hand(architecture: str) -> None:
    model = opened(architecture)
    flow, clean, corrupt = paired(model)
    flow = Flow(model, flow.graph.at_places(("early", "odd", "late")), flow.norms, flow.reads, flow.error)
    place_of = torch.randint(3, clean.input_ids.shape, generator=torch.Generator().manual_seed(0))
    hand = HANDS[architecture](model.adapter.model)  # type: ignore[attr-defined]
    given = all_in(hand, corrupt)[1]
    some = circuits(flow.graph, 5)
    found = MaskedRuns(contrasted(flow, clean, corrupt, place_of=place_of)).values(some)
    expected = torch.stack([by_hand(hand, flow, clean, given, one, place_of) for one in some])
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def test_the_full_circuit_is_the_model_and_the_empty_one_the_other_prompt() -> None:
    flow, clean, corrupt = paired(opened("llama"))
    values = MaskedRuns(contrasted(flow, clean, corrupt)).values([flow.graph.full, flow.graph.none])
    for batch, row in ((clean, values[0]), (corrupt, values[1])):
        logits = flow.model(batch)[torch.arange(batch.size), batch.end]
        assert (logits[:, ANSWER] - logits[:, DISTRACTOR] - row).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "olmo2"])
def test_many_circuits_at_once_equal_one_at_a_time(architecture: str) -> None:
    flow, clean, corrupt = paired(opened(architecture))
    runs, some = MaskedRuns(contrasted(flow, clean, corrupt)), circuits(flow.graph, 7)
    assert (runs.values(some) - runs.values(some, tokens=1)).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_a_run_that_begins_inside_equals_one_from_the_start(architecture: str) -> None:
    """The edges that differ lie behind the layer at which it begins."""
    flow, clean, corrupt = paired(opened(architecture, **{} if architecture == "gpt2" else {"num_hidden_layers": 3}))
    graph, runs = flow.graph, MaskedRuns(contrasted(flow, clean, corrupt))
    draw = np.random.default_rng(3)
    base = torch.from_numpy(graph.full & (draw.random(graph.full.shape) < 0.7)).float()[None]
    with torch.no_grad():
        first = MaskedRun(runs, base, keep=True)
        first.run()
        for begin in range(1, flow.n_layers + 1):
            later = np.array([reader.layer >= begin or reader.part == "logits" for reader in graph.readers])
            masks = base.repeat(3, 1, 1, 1)
            masks[1:][..., later] *= torch.from_numpy(draw.random((2, *graph.full.shape))[..., later] < 0.6)
            begun = MaskedRun(runs, masks, begin=begin, after=first.state).run()
            assert (begun - MaskedRun(runs, masks).run()).abs().max() < 1e-5
        assert (begun[0] - begun[1]).abs().max() > 1e-3


EXACT = ("gpt2", "llama", "gpt_neox", "olmo2", "gemma2", "qwen3", "mixtral", "gpt_oss", "mistral", "phi3")


@pytest.mark.parametrize("architecture", EXACT)
def test_exact_effects_equal_brute_force(architecture: str) -> None:
    """A whole forward for each edge, one circuit at a time: grouped keys, parallel, post-norm, experts, norms of q, k."""
    model = opened(architecture)
    flow, clean, corrupt = paired(model, lengths=(6, 5))
    contrast = contrasted(flow, clean, corrupt)
    scores = exact(contrast).scores.permute(1, 2, 3, 0)
    runs = MaskedRuns(contrast)
    chosen = np.random.default_rng(0).permutation(np.argwhere(flow.graph.full))[:60]
    whole = runs.values([flow.graph.full])[0]
    largest = 0.0
    for place, writer, reader in chosen:
        without = flow.graph.full.copy()
        without[place, writer, reader] = False
        effect = whole - runs.values([without], tokens=1)[0]
        assert (scores[place, writer, reader] - effect).abs().max() < 1e-5
        largest = max(largest, float(effect.abs().max()))
    assert largest > 1e-2


@pytest.mark.parametrize("stands_in", ["resample", "zero"])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])
def test_exact_effects_equal_the_zoos_sweep(architecture: str, stands_in: str) -> None:
    """Plain forwards with hooks of its own, which share nothing with this."""
    model = opened(architecture, **{"num_key_value_heads": 4} if architecture == "llama" else {})
    flow, clean, corrupt = paired(model, lengths=(6, 6))
    ablated = flow.record(corrupt)
    if stands_in == "zero":
        ablated = ablated.map(torch.zeros_like)
    found = exact(Contrast(flow, asked(clean), flow.record(clean), ablated)).scores.mean(0).numpy()

    def lost(edited: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        return (whole - edited)[..., -1, :].transpose(0, -1)[[ANSWER, DISTRACTOR]].mean(1).diff(dim=0).neg()[0]

    other = corrupt.input_ids if stands_in == "resample" else None
    expected = sweep(model.adapter.model, clean.input_ids, other, measure=lost)  # type: ignore[attr-defined]
    assert set(expected) == set(flow.graph.labels())
    values = dict(zip(flow.graph.labels(), flow.graph.vector(found).tolist(), strict=True))
    assert max(map(abs, expected.values())) > 1e-2
    assert max(abs(values[label] - effect) for label, effect in expected.items()) < 1e-5


def test_a_reader_that_reads_nothing_gives_nothing() -> None:
    """An RMSNorm makes much of what rounding leaves, so nothing must be nothing."""
    flow, clean, _ = paired(opened("llama", num_hidden_layers=3))
    zeros = flow.record(clean).map(torch.zeros_like)
    edges = flow.graph.full.copy()
    edges[..., -1] = False
    values = MaskedRuns(Contrast(flow, asked(clean), flow.record(clean), zeros)).values([edges, flow.graph.none])
    assert (values == 0).all()


def test_a_model_that_may_not_be_restarted_runs_whole_to_the_same_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    contrast = contrasted(*paired(opened("llama")))
    begun = exact(contrast)
    monkeypatch.setattr("interp.circuits.edges.masked.distrust", lambda model: {"layers": "made up"})
    whole = exact(contrast)
    torch.testing.assert_close(whole.scores, begun.scores, atol=1e-5, rtol=0)
    assert whole.forwards == contrast.flow.graph.n_edges + 1 > begun.forwards
