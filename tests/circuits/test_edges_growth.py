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
from interp.circuits.edges.growth import Growing, Grown, attributed, grow
from interp.circuits.edges.halves import Side
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.posed import Posed
from interp.circuits.edges.replacements import stand_in
from interp.circuits.edges.ways import completed, read_by_circuit, strongest, tried, used
from interp.circuits.graph.flow import Flow
from interp.circuits.judging.ranking import average_precision
from interp.hooks.metrics import metric
from interp.kernels.errors import InterpError
from tests.cases.edges import contrasted, opened, paired

MODELS = Path(str(interp.__file__)).parent / "zoo" / "models"


@cache
def planted(name: str, ablation: str = "resample", first: int = 0) -> tuple[Contrast, np.ndarray]:
    """A bundled model on sixteen of its examples, and its true edges."""
    model, of = interp.load(name), metric("logit_diff")
    task = interp.task("file", path=str(MODELS / name / "examples.jsonl"), n=first + 16)
    rows = task.examples(model.tokenizer).examples[first:]
    posed = Posed.of(tokenised(model, task, rows, of, "resample", truncate=False, first_token=False), of)
    flow = Flow.of(model)
    truth = json.loads((MODELS / name / "card.json").read_text())["truth"]["edges"][ablation]
    return stand_in(ablation, flow, posed).contrast(flow, posed), flow.graph.of_labels(truth)


@cache
def whole_growth(name: str, ablation: str = "resample", first: int = 0) -> Grown:
    return grow(planted(name, ablation, first)[0])


@pytest.mark.parametrize(
    ("name", "ablation", "first"),
    [
        ("planted-copy", "zero", 0),
        ("planted-copy", "zero", 40),
        ("planted-and", "resample", 0),
        ("planted-and", "resample", 40),
        ("compiled-sort", "resample", 40),
    ],
)
def test_growth_finds_what_needs_each_other_on_whichever_prompts(name: str, ablation: str, first: int) -> None:
    contrast, truth = planted(name, ablation, first)
    found = whole_growth(name, ablation, first)
    assert average_precision(contrast.flow.graph, found.scores, truth) > 0.85
    assert found.steps[-1].chosen < 0.1 and found.steps[-1].judged < 0.1


def test_growth_does_what_the_planted_circuit_does() -> None:
    contrast, truth = planted("planted-induction")
    found = whole_growth("planted-induction")
    assert (found.circuit & truth).sum() == truth.sum()
    assert found.circuit.sum() <= 0.2 * contrast.flow.graph.n_edges
    empty, whole, reached = (
        MaskedRuns(contrast)
        .values([~contrast.flow.graph.full, contrast.flow.graph.full, found.circuit])
        .mean(1)
        .tolist()
    )
    assert reached - empty > 0.95 * (whole - empty)


def test_steps_state_what_was_measured() -> None:
    contrast, _ = planted("ordered-command")
    found = whole_growth("ordered-command")
    graph, n = contrast.flow.graph, contrast.question.batch.size
    values = MaskedRuns(contrast).values([graph.full, graph.none])
    whole, empty = values.double().numpy()
    edges, before = graph.none, 1.0
    for step in found.steps:
        edges |= graph.of_labels(step.added)
        missed = (MaskedRuns(contrast).values([edges])[0].double().numpy() - whole) ** 2
        sides = (slice(0, n // 2), slice(n // 2, n))
        chosen, judged = (missed[side].mean() / ((empty - whole) ** 2)[side].mean() for side in sides)
        assert step.edges == edges.sum()
        assert step.chosen == pytest.approx(chosen, abs=1e-4) and step.judged == pytest.approx(judged, abs=1e-4)
        assert step.gain == pytest.approx(before - judged, abs=1e-4)
        before = judged
    assert len(found.steps) > 1 and not (found.circuit & ~edges).any(), "what is in at the end was added by a step"
    assert [step.chosen for step in found.steps] == sorted((step.chosen for step in found.steps), reverse=True)


def test_scores_put_what_is_in_first_by_what_the_metric_loses_without_it() -> None:
    contrast, _ = planted("ordered-command")
    found, graph = whole_growth("ordered-command"), contrast.flow.graph
    inside, outside = found.scores[found.circuit], found.scores[graph.full & ~found.circuit]
    assert inside.min() >= 0.5 >= outside.max() > outside.min() >= 0 and inside.max() == 1
    assert (found.scores[~graph.full] == 0).all()
    moved = []
    side = MaskedRuns(contrast.rows(0, contrast.question.batch.size // 2))
    for edge in np.argwhere(found.circuit):
        less = found.circuit.copy()
        less[tuple(edge)] = False
        both = side.values([found.circuit, less]).double().numpy()
        moved.append(abs(both[1] - both[0]).mean())
    assert inside == pytest.approx(0.5 + 0.5 * np.array(moved) / max(moved), abs=1e-4)


def test_nothing_stays_that_the_circuit_does_not_need() -> None:
    contrast, _ = planted("planted-induction")
    found = whole_growth("planted-induction")
    side = Side(contrast.rows(0, contrast.question.batch.size // 2))
    for edge in np.argwhere(found.circuit):
        less = found.circuit.copy()
        less[tuple(edge)] = False
        assert side.far(less) > side.far(found.circuit) + 0.001


def test_budget_and_size_are_kept() -> None:
    contrast, _ = planted("ordered-command")
    one_step = grow(contrast, Growing(budget=1.0))
    assert one_step.stopped == "budget" and len(one_step.steps) == 1
    small = grow(contrast, Growing(size=0.03))
    assert 0 < small.circuit.sum() <= 0.03 * contrast.flow.graph.n_edges
    assert small.stopped in ("size", "gain")


def test_nothing_grows_where_nothing_is_lost() -> None:
    flow, clean, _ = paired(opened("gpt2"))
    found = grow(contrasted(flow, clean, clean))
    assert not found.circuit.any() and found.stopped == "gain" and np.isfinite(found.scores).all()


def test_the_empty_circuit_is_read_by_the_logits_alone() -> None:
    graph = Flow.of(opened("llama")).graph
    assert read_by_circuit(graph, graph.none).nonzero()[0].tolist() == [len(graph.readers) - 1]
    labels = {
        graph.readers[index].label
        for index in np.flatnonzero(read_by_circuit(graph, graph.of_labels(["L0H1->logits"])))
    }
    assert labels == {"L0H1.q", "L0KV0.k", "L0KV0.v", "logits"}


def test_a_way_has_an_edge_into_every_input_of_what_it_reads() -> None:
    graph = Flow.of(opened("gpt2")).graph
    pull = np.random.default_rng(0).random(graph.full.shape) * graph.full
    for start in ("L1H0->logits", "M1->logits", "L0H1->L1H2.k"):
        way = completed(graph, graph.none, [graph.edge(start)], pull)
        for writer in np.flatnonzero(way.any((0, 2))):
            for reader in graph.inputs_of(graph.writers[writer]):
                assert way[:, :, reader].sum() == 1
                chosen = np.where(graph.full[0, :, reader], pull[0, :, reader], -1).argmax()
                assert way[0, chosen, reader]
    circuit = graph.of_labels(["embed->L1H0.q", "L1H0->logits"])
    more = completed(graph, circuit, [graph.edge("L1H0->M1")], pull)
    assert graph.labels(more) == ["L1H0->M1"], "what reads something already is left as it is"


def test_ways_are_read_by_the_logits_and_hold_to_the_room() -> None:
    graph = Flow.of(opened("gpt2")).graph
    draw = np.random.default_rng(1)
    pulls = [draw.random(graph.full.shape) * graph.full for _ in range(2)]
    circuit = completed(graph, graph.none, [graph.edge("L1H0->logits")], pulls[0])
    ways = tried(graph, circuit, pulls, 3, 6)
    assert len(ways) == len({way.tobytes() for way in ways}) > 6
    for way in ways:
        assert 0 < way.sum() <= 12 and not (way & circuit).any()
        assert (used(graph, way, circuit) == way).all()
    idle = graph.of_labels(["embed->L0H0.v", "L0H0->M0", "embed->M1"])
    assert not used(graph, idle, graph.none).any()


def test_the_strongest_come_first() -> None:
    pull = np.array([[[0.5, 2.0], [-1.0, 0.0]]])
    assert strongest(pull, 9) == [(0, 0, 1), (0, 0, 0), (0, 1, 1)] and strongest(pull, 1) == [(0, 0, 1)]


def test_scores_are_those_of_the_growth() -> None:
    contrast, _ = planted("planted-copy")
    how = Growing(budget=10.0)
    found, scores = grow(contrast, how), attributed(contrast, how)
    assert 0 < found.circuit.sum() and np.allclose(scores.scores[0].numpy(), found.scores)
    assert scores.forwards == found.forwards


def test_one_prompt_cannot_choose_and_judge() -> None:
    flow, clean, corrupt = paired(opened("gpt2"))
    with pytest.raises(InterpError, match="E205"):
        grow(contrasted(flow, clean, corrupt).rows(0, 1))
