"""Greedy growth: it finds what was planted, keeps its budget, and says honestly what other prompts think of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.ablation.asking import tokenised
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.growth import Growing, Grown, attributed, grow, half, read_by_circuit
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.hooks.metrics import metric
from interp.kernels.errors import InterpError
from tests.cases.edges import contrasted, opened, paired

MODELS = Path(str(interp.__file__)).parent / "zoo" / "models"


@cache
def planted(name: str) -> tuple[Contrast, np.ndarray]:
    """A bundled model on its examples, and its true edges."""
    model, of = interp.load(name), metric("logit_diff")
    task = interp.task("file", path=str(MODELS / name / "examples.jsonl"), n=16)
    rows = task.examples(model.tokenizer).examples
    pairs = tokenised(model, task, rows, of, "resample", truncate=False, first_token=False)
    flow = Flow.of(model)
    truth = json.loads((MODELS / name / "card.json").read_text())["truth"]["edges"]["resample"]
    contrast = Contrast(flow, Question.of(pairs, of), flow.record(pairs.clean), flow.record(pairs.corrupt))
    return contrast, flow.graph.of_labels(truth)


@cache
def whole_growth(name: str) -> Grown:
    return grow(planted(name)[0])


@pytest.mark.parametrize("name", ["planted-induction", "planted-induction-rmsnorm"])
def test_growth_does_what_the_planted_circuit_does(name: str) -> None:
    contrast, truth = planted(name)
    found = whole_growth(name)
    assert name != "planted-induction" or (found.circuit & truth).sum() == truth.sum()
    assert found.circuit.sum() <= 0.2 * contrast.flow.graph.n_edges
    empty, whole, reached = (
        MaskedRuns(contrast)
        .values([~contrast.flow.graph.full, contrast.flow.graph.full, found.circuit])
        .mean(1)
        .tolist()
    )
    assert reached - empty > 0.95 * (whole - empty)


def test_steps_state_what_was_measured() -> None:
    contrast, _ = planted("planted-induction")
    found = whole_growth("planted-induction")
    graph, n = contrast.flow.graph, contrast.question.batch.size
    edges, before = graph.none, float(MaskedRuns(half(contrast, n // 2, n)).values([graph.none]).mean())
    for number, step in enumerate(found.steps):
        edges |= graph.of_labels(step.added)
        values = MaskedRuns(contrast).values([edges])[0]
        assert step.edges == edges.sum()
        assert step.chosen == pytest.approx(float(values[: n // 2].mean()), abs=1e-4)
        assert step.judged == pytest.approx(float(values[n // 2 :].mean()), abs=1e-4)
        assert step.gain == pytest.approx(step.judged - before, abs=1e-4)
        assert all(found.scores[graph.edge(label)] == 1 / (1 + number) for label in step.added)
        before = step.judged
    assert (edges == found.circuit).all() and ((found.scores > 0) == edges).all()
    chosen = [step.chosen for step in found.steps]
    assert chosen == sorted(chosen)


def test_budget_and_size_are_kept() -> None:
    contrast, _ = planted("planted-induction")
    one_step = grow(contrast, Growing(budget=1.0))
    assert one_step.stopped == "budget" and len(one_step.steps) == 1
    small = grow(contrast, Growing(size=0.03))
    assert small.circuit.sum() <= 0.03 * contrast.flow.graph.n_edges
    assert small.stopped in ("size", "gain")


def test_the_empty_circuit_is_read_by_the_logits_alone() -> None:
    graph = Flow.of(opened("llama")).graph
    assert read_by_circuit(graph, graph.none).nonzero()[0].tolist() == [len(graph.readers) - 1]
    labels = {
        graph.readers[index].label
        for index in np.flatnonzero(read_by_circuit(graph, graph.of_labels(["L0H1->logits"])))
    }
    assert labels == {"L0H1.q", "L0KV0.k", "L0KV0.v", "logits"}


def test_scores_are_those_of_the_growth() -> None:
    contrast, _ = planted("planted-induction")
    how = Growing(budget=10.0)
    found, scores = grow(contrast, how), attributed(contrast, how)
    assert 0 < found.circuit.sum() and np.allclose(scores.scores[0].numpy(), found.scores)
    assert scores.forwards == found.forwards


def test_one_prompt_cannot_choose_and_judge() -> None:
    flow, clean, corrupt = paired(opened("gpt2"))
    with pytest.raises(InterpError, match="E205"):
        grow(half(contrasted(flow, clean, corrupt), 0, 1))
