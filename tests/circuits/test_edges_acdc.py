"""ACDC against the plain algorithm, one full forward an edge: the same decisions on many architectures, from less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
import interp.circuits.edges.search as search_module
from interp.ablation.asking import tokenised
from interp.circuits.edges.acdc import Found, acdc, by_losses, by_thresholds, can_follow
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.exact import exact
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.search import Skipping
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.hooks.metrics import metric
from interp.kernels.errors import InterpError
from tests.cases.edges import contrasted, opened, paired

FAMILIES = ("gpt2", "llama", "gpt_neox", "phi3", "qwen3", "mistral", "mixtral", "gpt_oss", "gemma2", "olmo2")
JOINED = ("gemma2", "olmo2")
"""Heads of a layer go through a norm together, so that each says something as long as one is read."""


def is_read(contrast: Contrast, circuit: np.ndarray, reader: int, joined: bool) -> bool:
    """Whether anything in the circuit reads what is computed from a reader, by the definition."""
    graph = contrast.flow.graph
    behind = [part for part in graph.writers if reader in graph.inputs_of(part)]
    if joined and any(part.kind == "head" for part in behind):
        behind = [part for part in graph.writers if part.kind == "head" and part.layer == behind[0].layer]
    return not behind or any(circuit[:, graph.writer_index[part.label]].any() for part in behind)


def plain(
    contrast: Contrast, tau: float, *, forward: bool = False, absolute: bool = False, joined: bool = False
) -> tuple[np.ndarray, np.ndarray, int]:
    """The algorithm as it is written down: the circuit, the losses, and how many edges were measured."""
    graph, runs = contrast.flow.graph, MaskedRuns(contrast)
    circuit, losses, measured = graph.full.copy(), np.zeros(graph.full.shape), 0
    now = float(runs.values([circuit]).mean())
    for reader in reversed(range(len(graph.readers))):
        if not is_read(contrast, circuit, reader, joined):
            circuit[:, :, reader] = False
            continue
        slots = [(place, writer) for writer in range(graph.seen[reader]) for place in range(len(graph.places))]
        for slot in slots if forward else slots[::-1]:
            trial = circuit.copy()
            trial[*slot, reader] = False
            value = float(runs.values([trial]).mean())
            losses[*slot, reader], measured = now - value, measured + 1
            if (abs(now - value) if absolute else now - value) < tau:
                circuit, now = trial, value
    return circuit, losses, measured


def example(architecture: str, **options: Any) -> Contrast:
    flow, clean, corrupt = paired(opened(architecture))
    return contrasted(flow, clean, corrupt, **options)


def middle(contrast: Contrast, share: float = 0.6) -> float:
    """A tau that some edges pass and others do not."""
    effects = exact(contrast).scores.mean(0).abs().numpy()[contrast.flow.graph.full]
    return float(np.quantile(effects, share))


def agrees(found: Found, expected: tuple[np.ndarray, np.ndarray, int]) -> None:
    circuit, losses, _ = expected
    assert 0 < circuit.sum() < found.measured.sum(), "the example must be one in which edges go and stay"
    assert (found.circuit == circuit).all()
    scale = np.abs(losses).max()
    assert np.abs(found.losses - losses)[found.measured].max() < 1e-5 * max(1.0, scale)
    assert np.abs(losses[~found.measured]).max() < 1e-5 * max(1.0, scale), "what was not measured must lose nothing"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_decisions_are_those_of_one_forward_an_edge(architecture: str) -> None:
    contrast = example(architecture)
    tau = middle(contrast)
    expected = plain(contrast, tau, joined=architecture in JOINED)
    assert can_follow(MaskedRuns(contrast))
    by_parts, by_layers = (acdc(contrast, tau, by_parts=way) for way in (True, False))
    for found in (by_parts, by_layers):
        agrees(found, expected)
        assert found.by_parts == (found is by_parts)
        whole = MaskedRuns(contrast).values([found.circuit]).mean()
        assert found.value == pytest.approx(float(whole), abs=1e-4)
    assert by_parts.forwards < by_layers.forwards


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("order", ["reverse", "forward"])
def test_order_and_absolute_losses(order: Any, absolute: bool) -> None:
    contrast = example("llama")
    tau = middle(contrast)
    expected = plain(contrast, tau, forward=order == "forward", absolute=absolute)
    agrees(acdc(contrast, tau, order=order, absolute=absolute), expected)


@pytest.mark.parametrize("by_parts", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_edges_at_places(architecture: str, by_parts: bool) -> None:
    flow, clean, corrupt = paired(opened(architecture))
    flow = Flow(flow.model, flow.graph.at_places(("early", "late")), flow.norms, flow.reads, flow.error)
    place_of = (torch.arange(clean.input_ids.shape[1]) > 4).long().expand(clean.size, -1)
    contrast = contrasted(flow, clean, corrupt, place_of=place_of)
    tau = middle(contrast)
    agrees(acdc(contrast, tau, by_parts=by_parts), plain(contrast, tau))


@pytest.mark.parametrize("guess", [-1.0, 1.0, None])
def test_predictions_change_the_cost_alone(guess: float | None) -> None:
    contrast = example("gpt2")
    tau = middle(contrast)
    right = acdc(contrast, tau)
    draw = np.random.default_rng(0)
    scores = draw.normal(size=right.losses.shape) if guess is None else np.full(right.losses.shape, guess * 1e9)
    wrong = acdc(contrast, tau, predicted=scores)
    assert (wrong.circuit == right.circuit).all()
    told = acdc(contrast, tau, predicted=right.losses)
    assert (told.circuit == right.circuit).all()
    assert told.trials == told.measured.sum() < wrong.trials


def test_equal_beginnings_are_not_measured() -> None:
    """Nothing is lost where clean and corrupt prompts are the same up to where a reader matters."""
    flow, clean, corrupt = paired(opened("llama"))
    ids = clean.input_ids.clone()
    ids[:, 5] = corrupt.input_ids[:, 5]
    other = flow.model.batch(type(clean)({**clean.inputs, "input_ids": ids}, clean.mask))
    contrast = contrasted(flow, clean, other)
    tau = middle(contrast, 0.7)
    found, expected = acdc(contrast, tau), plain(contrast, tau)
    agrees(found, expected)
    into_logits = flow.graph.edge("embed->logits")
    assert not found.measured[into_logits] and not found.circuit[into_logits]


def test_skipped_edges_are_audited() -> None:
    contrast = example("gpt2")
    tau = middle(contrast)
    scores = exact(contrast).scores.mean(0).numpy()
    all_measured = acdc(contrast, tau, predicted=scores)
    some = acdc(contrast, tau, predicted=scores, skipping=Skipping(below=0.5, audited=0.3, seed=1))
    assert some.skipped > some.audited > 0
    assert some.measured.sum() + some.skipped <= contrast.flow.graph.n_edges
    assert some.forwards < all_measured.forwards
    assert some.value == pytest.approx(float(MaskedRuns(contrast).values([some.circuit]).mean()), abs=1e-4)
    misled = acdc(contrast, tau, predicted=0 * scores, skipping=Skipping(below=0.5, audited=0.5, seed=1))
    assert misled.differed > 0, "scores that say nothing must be found out"
    again = acdc(contrast, tau, predicted=0 * scores, skipping=Skipping(below=0.5, audited=0.5, seed=1))
    assert (again.circuit == misled.circuit).all()


def test_a_metric_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise InterpError("E407", "no gradient")

    contrast = example("gpt2")
    tau = middle(contrast)
    expected = acdc(contrast, tau)
    monkeypatch.setattr("interp.circuits.edges.acdc.along_inputs", refuse)
    assert (acdc(contrast, tau).circuit == expected.circuit).all()


def test_rankings() -> None:
    contrast = example("llama")
    low, high = middle(contrast, 0.5), middle(contrast, 0.9)
    losses, thresholds = by_losses(contrast, low), by_thresholds(contrast, [high, low])
    circuits = {tau: acdc(contrast, tau).circuit for tau in (low, high)}
    assert losses.scores.shape == thresholds.scores.shape == (1, *contrast.flow.graph.full.shape)
    assert (losses.scores[0].numpy() >= low).sum() == circuits[low].sum()
    scores = thresholds.scores[0].numpy()
    assert (scores[circuits[high]] == np.float32(high)).all()
    assert (scores[circuits[low] & ~circuits[high]] == np.float32(low)).all()
    assert (scores[~circuits[low] & ~circuits[high]] == 0).all()


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_bad_tau(tau: float) -> None:
    with pytest.raises(InterpError, match="E205"):
        acdc(example("gpt2"), tau)


def test_a_wrong_state_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that forgets what it has taken out comes out wrong; that is seen, and it is done again by layers."""
    contrast = example("gpt2")
    tau = middle(contrast)
    right = acdc(contrast, tau, by_parts=False)
    monkeypatch.setattr(search_module.Downstream, "keep", lambda *_: None)
    monkeypatch.setattr("interp.circuits.edges.acdc._holds", lambda _: True)
    assert np.abs(acdc(contrast, tau).losses - right.losses)[right.measured].max() > 1e-3
    monkeypatch.undo()
    monkeypatch.setattr(search_module.Downstream, "keep", lambda *_: None)
    mended = acdc(contrast, tau)
    assert not mended.by_parts and (mended.circuit == right.circuit).all() and mended.forwards > right.forwards


def test_ten_times_fewer_forwards_than_edges() -> None:
    """The bundled model on one of its tasks; decisions are those of one forward an edge."""
    model, of = interp.load("mini"), metric("logit_diff")
    task = interp.task("greater_than", n=8, seed=0)
    rows = task.examples(model.tokenizer).examples
    pairs = tokenised(model, task, rows, of, "resample", truncate=False, first_token=False)
    flow = Flow.of(model)
    contrast = Contrast(flow, Question.of(pairs, of), flow.record(pairs.clean), flow.record(pairs.corrupt))
    tau = 0.03
    found = acdc(contrast, tau)
    assert 10 * found.forwards <= flow.graph.n_edges
    agrees(found, plain(contrast, tau))
