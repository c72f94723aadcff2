"""Heads and MLPs of a circuit: against forwards by hand, in planted models, through a folder and on a page."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.discovery.explained import explained
from interp.discovery.parts import Without, members
from interp.discovery.result import Circuit
from interp.hooks.metrics import metric
from interp.hooks.model import HookedModel
from interp.hooks.pairs import tokenise
from interp.kernels.errors import InterpError
from interp.passport.run import passports
from interp.report.circuit.passports import passport_map
from interp.report.page import render
from interp.tasks.file import file_task
from interp.zoo.registry import ROOT

NAME = "planted-induction"
TRUE = 5
QUICK: dict[str, Any] = {"n_random": 40, "n_curve": 1, "beside": ()}
ASKED = ("induction", "previous-token", "copying")


@cache
def model() -> HookedModel:
    return interp.load(NAME)


def task(n: int = 16) -> Any:
    return replace(file_task(ROOT / NAME / "examples.jsonl"), n=n)


@cache
def found(size: int = TRUE, **options: Any) -> Circuit:
    return interp.circuit(model(), task(), method="exact", size=size, **{**QUICK, **options})


@cache
def whole() -> Circuit:
    """With all that may be asked for."""
    return found(explain=1, passports=ASKED)


@cache
def contrast() -> Contrast:
    """Of the prompts that judge, without any of the code of a discovery."""
    pairs = tokenise(model().tokenizer, task().examples(model().tokenizer).examples[8:])
    flow = Flow.of(model())
    assert pairs.corrupt is not None
    question = Question.of(pairs, metric("logit_diff"))
    return Contrast(flow, question, flow.record(pairs.clean), flow.record(pairs.corrupt))


def runs() -> MaskedRuns:
    return MaskedRuns(contrast())


def words(page: str) -> str:
    """The page's text as a reader sees it."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def part(result: Circuit, label: str) -> Any:
    return next(one for one in result.parts if one.label == label)


def test_parts_are_the_planted_heads_and_cost_what_forwards_by_hand_say() -> None:
    result = found()
    assert {one.label for one in result.parts} == {"L0H0", "L1H2"}
    graph = result.graph
    for one in result.parts:
        own = {label for label in graph.labels(result.edges) if label.startswith(f"{one.label}->")}
        left = graph.of_labels(set(graph.labels(result.edges)) - own)
        value, full, empty = runs().values([left, graph.full, graph.none]).double().numpy()
        np.testing.assert_allclose(result.without.values[members_row(result, one.label)], value, atol=1e-5)
        expected = (value.mean() - empty.mean()) / (full.mean() - empty.mean())
        assert one.kept.value == pytest.approx(expected, abs=1e-5)
    assert part(result, "L1H2").kept.value == pytest.approx(0.0, abs=0.01)  # it says the corrupt answer
    assert part(result, "L0H0").kept.value == pytest.approx(0.5, abs=0.01)  # it finds neither: both answers are alike


def members_row(result: Circuit, label: str) -> int:
    return [result.graph.writers[index].label for index in members(result.graph, result.edges)].index(label)


def test_what_a_part_reads_and_writes_is_what_was_planted() -> None:
    induction, before = part(found(), "L1H2"), part(found(), "L0H0")
    assert [name for name, _ in induction.writes] == ["logits"]
    assert [name for name, _ in induction.reads["k"]] == ["L0H0"]
    assert [name for name, _ in before.writes] == ["L1H2.k"]
    scores = found().to_frame().set_index("edge")["score"]
    assert dict(induction.reads["k"])["L0H0"] == pytest.approx(scores["L0H0->L1H2.k"])
    assert induction.mass == pytest.approx(abs(scores["L1H2->logits"]))
    inside = found().to_frame().query("in_circuit")
    assert induction.share == pytest.approx(induction.mass / inside["score"].abs().sum())
    assert induction.n_in == sum(edge.split("->")[1].startswith("L1H2.") for edge in inside["edge"])


def test_random_edges_are_as_many_and_never_its_own() -> None:
    result, asked = found(30), list[np.ndarray]()

    def values(circuits: Any) -> np.ndarray:
        asked.extend(circuits)
        return np.zeros((len(circuits), 2))

    made = Without.of(
        result.graph, result.edges, values, n_random=4 * len(members(result.graph, result.edges)) + 1, seed=0
    )
    parts = members(result.graph, result.edges)
    assert made.values.shape == (len(parts), 2)
    rest = iter(asked[len(parts) :])
    for row, writer in enumerate(parts):
        own = result.edges[:, writer].sum()
        assert not asked[row][:, writer].any() and (result.edges & ~asked[row]).sum() == own
        if own > result.edges[:, parts].sum() - own:
            assert np.isnan(made.random[row]).all()
            continue
        for _ in range(4):
            out = result.edges & ~next(rest)
            assert out.sum() == own and not out[:, writer].any() and out[:, parts].sum() == own
    assert next(rest, None) is None


def test_heads_that_were_not_planted_cost_nothing_and_what_stands_out_is_held_against_chance() -> None:
    result = found(30)
    assert {one.label for one in result.parts[:2]} == {"L0H0", "L1H2"} and len(result.parts) > 4
    assert all(one.kept.value > 0.99 for one in result.parts[2:])
    assert all(one.as_costly <= len(one.random) for one in result.parts)
    tried = [one for one in result.parts if one.random]
    chance = sum(1 / (len(one.random) + 1) for one in tried)
    said = f"{sum(one.stands_out for one in tried)} of {len(tried)} parts cost more than every random set of edges"
    assert any(line.endswith(f"{said} (by chance {chance:.3g})") for line in result.remarks())


def test_without_other_edges_nothing_is_drawn_and_without_parts_nothing_is_run() -> None:
    graph = found().graph
    lone = Without.of(graph, graph.of_labels(["L1H2->logits"]), lambda some: np.ones((len(some), 3)), 8, 0)
    assert lone.values.shape == (1, 3) and np.isnan(lone.random).all()
    none = Without.of(graph, graph.of_labels(["embed->logits"]), lambda some: np.ones((len(some), 3)), 8, 0)
    assert none.values.shape == (0, 3) and none.random.shape[0] == 0


def test_parts_survive_the_folder_and_stand_on_the_page(tmp_path: Path) -> None:
    result = found(30)
    again = Circuit.load(result.save(tmp_path / "run"))
    assert again == result and again.parts == result.parts
    text = words(render([result]))
    assert "what it keeps without each" in text and "draws as costly" in text
    assert "without it the circuit keeps" in render([result])
    frame = result.parts_frame()
    assert list(frame["part"]) == [one.label for one in result.parts] and (frame["kept"].diff().dropna() >= 0).all()


def test_a_subspace_carries_what_a_forward_by_hand_says() -> None:
    """The stream before the logits, moved by what the head writes in the other prompt, inside the subspace and outside."""
    (subspace,) = whole().explained
    about, basis = subspace.about, torch.from_numpy(subspace.basis)
    assert about.edge == whole().lines(1)[0][0] == "L1H2->logits" and about.rank == basis.shape[1] > 0
    asked = contrast()
    moved = asked.ablated.minus(asked.clean).heads[1][:, :, 2] @ model().w_out(1)[2]
    batch, rows = asked.question.batch, torch.arange(asked.question.batch.size)

    def effect(shift: Tensor) -> np.ndarray:
        hooks = {"blocks.1.hook_resid_post": [lambda value, _: value + shift]}
        logits = [model().run_with_hooks(batch, given) for given in ({}, hooks)]
        outputs = [one[rows, asked.question.read_at] for one in logits]
        values = [asked.question.measure(one, 0, batch.size, asked.reference) for one in outputs]
        return (values[0] - values[1]).double().numpy()

    inside = moved @ basis @ basis.T
    one, two, three = (effect(shift).mean() for shift in (moved, inside, moved - inside))
    assert about.whole == pytest.approx(one, abs=1e-3)
    assert (about.inside, about.outside) == pytest.approx((two / one, three / one), abs=1e-4)
    assert about.n == 8 and set(about.verdicts or {}) == {"inside", "outside", "random"}


def test_an_edge_that_does_nothing_has_a_reason_and_no_subspace(tmp_path: Path) -> None:
    one = explained(contrast(), contrast(), "L0H3->M0", 0.0, 0)
    assert one.basis.shape == (model().w_out(0).shape[-1], 0) and "not told from 0" in one.about.says
    assert one.about.read == "" and not one.about.is_proved and one.about.line()[4] == "-"
    result = replace(found(), explained=(one,))
    again = Circuit.load(result.save(tmp_path / "run"))
    assert again == result and again.explained[0].about.line() == one.about.line()


def test_passports_of_a_circuit_are_those_of_its_heads() -> None:
    compact = whole().passports
    assert compact is not None and [one.head for one in compact.heads] == [*whole().heads] == ["L1H2", "L0H0"]
    alone = interp.passport(
        model(), "L1H2", task(), scorers=ASKED, seeds=(task().seed,), templates=[], dormancy=False
    )  # fmt: skip
    assert compact["L1H2"].labels == alone.labels and alone.labels[0].name == "induction"
    assert compact["L0H0"].labels[0].name == "previous token"
    assert [one.question for one in compact["L1H2"].readings] == [one.question for one in alone.main]
    for own, other in zip(compact["L1H2"].readings, alone.main, strict=True):
        np.testing.assert_allclose(
            [own.value, own.low, own.high, own.chance, own.others],
            [other.value, other.low, other.high, other.chance, other.others], atol=1e-5,
        )  # fmt: skip
        assert (own.claimed, own.rank) == (other.claimed, other.rank) and not own.values.size
    assert compact["L1H2"].asked == tuple(one.n for one in alone.main)
    assert dict(compact.left_out) == dict(alone.left_out)


def test_the_map_of_passports_marks_what_is_claimed() -> None:
    compact = whole().passports
    assert compact is not None
    trace = passport_map(compact).data[0]
    questions = [one.question for one in compact.heads[0].readings]
    row, column = 0, questions.index("induction")
    assert trace.z[row][column] == pytest.approx(compact["L1H2"].readings[column].strength)
    assert trace.z[row][column] > 0.9
    assert trace.text[row][column] == "●" and trace.text[1][column] == ""
    assert np.nanmax(np.abs(np.array(trace.z, dtype=float))) <= 1 + 1e-6
    frame = compact.to_frame()
    assert len(frame) == sum(len(one.readings) for one in compact.heads) and "values" not in frame


def test_everything_survives_the_folder_and_stands_on_the_page(tmp_path: Path) -> None:
    result = whole()
    folder = result.save(tmp_path / "run")
    again = Circuit.load(folder)
    assert again == result and render([again]) == render([result])
    text = words(render([result]))
    for said in (
        "Passports of the heads",
        "What the strongest edges carry",
        "What scorers and ablations say",
        "induction 1",
    ):
        assert said in text


def test_the_verb_asks_for_all_of_it_and_its_command_repeats_it(cli: Any) -> None:
    file = str(ROOT / NAME / "examples.jsonl")
    said = cli(
        "circuit", "-M", NAME, "--prompts", file, "-L", "8", "--size", "5", "--random", "1", "--explain", "1",
        "--passports", "induction", "-o", "x", "--no-progress", "--json",
    )  # fmt: skip
    assert said.code == 0
    stored = Circuit.load("x")
    assert [one["part"] for one in said.data["parts"]] == [one.label for one in stored.parts]
    assert said.data["explained"][0]["edge"] == stored.explained[0].about.edge
    assert said.data["passports"]["heads"][0]["head"] in stored.heads
    assert "Passports of the heads:" in said.err and "--explain 1" in stored.run.command


def test_what_cannot_be_asked_is_refused_before_anything_runs() -> None:
    for options, code in (({"explain": -1}, "E205"), ({"passports": ("nothing",)}, "E201")):
        with pytest.raises(InterpError) as caught:
            interp.circuit(model(), task(), size=5, **options)
        assert caught.value.code == code
    with pytest.raises(InterpError) as caught:
        passports(model(), ["L0H0", "L7H0"], task())
    assert caught.value.code == "E203"
