"""Circuit discovery as a user calls it: planted circuits, two sides of prompts, text, files, pages and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from interp.circuits.edges.masked import MaskedRuns
from interp.discovery.choice import Choice
from interp.discovery.comparison import compare
from interp.discovery.exports import export
from interp.discovery.result import Circuit
from interp.discovery.roles import Roles
from interp.discovery.sides import both_sides
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError
from interp.report.page import render
from interp.tasks.file import file_task
from interp.zoo.registry import ROOT

CHAIN = "planted-chain"
QUICK: dict[str, Any] = {"n_random": 5, "n_curve": 2, "beside": ()}


@cache
def model(name: str = CHAIN) -> HookedModel:
    return interp.load(name)


def task(name: str = CHAIN, n: int = 16) -> Any:
    return replace(file_task(ROOT / name / "examples.jsonl"), n=n)


def truth(name: str = CHAIN) -> set[str]:
    return set(json.loads((ROOT / name / "card.json").read_text("utf-8"))["truth"]["edges"]["resample"])


@cache
def found(name: str = CHAIN, **options: Any) -> Circuit:
    return interp.circuit(model(name), task(name), **{**QUICK, **options})


def refusal(**options: Any) -> InterpError:
    with pytest.raises(InterpError) as caught:
        interp.circuit(model(), task(), **{**QUICK, **options})
    return caught.value


@pytest.mark.parametrize("method", ["exact", "eap", "eap-ig", "clean-corrupted"])
def test_the_chain_is_found_edge_for_edge(method: str) -> None:
    assert (
        set(found(method=method, size=len(truth())).graph.labels(found(method=method, size=len(truth())).edges))
        == truth()
    )


def test_the_true_circuit_keeps_everything_and_random_ones_do_not() -> None:
    result = found(size=len(truth()))
    assert result.faithfulness.value == pytest.approx(1.0, abs=1e-5)
    assert result.beaten_by == 0 and len(result.random) == 5
    assert "none of 5 random circuits" in result.headline()


def test_the_smallest_faithful_circuit_is_no_larger_than_the_true_one() -> None:
    result = found(faithful=0.999)
    assert result.n_edges <= len(truth()) and result.faithfulness.value > 0.9
    assert "first size" in result.run.method["chosen"]


def test_prompts_that_judge_are_not_those_that_choose() -> None:
    result = found(size=12)
    assert len(result.prompts) == 8 and result.run.task["kept"] == 8
    kept = [example.id for example in task().examples(model().tokenizer).examples]
    assert [prompt.id for prompt in result.prompts] == kept[8:]


def test_a_task_that_draws_judges_on_another_draw() -> None:
    mini = model("mini")
    result = interp.circuit(mini, interp.task("docstring", n=4), size=60, batch_size=4, **QUICK)
    assert result.run.seeds == {"task": 0, "judge": 1000, "evidence": 0}
    assert result.run.task["kept"] == len(result.prompts) == 4


def test_values_are_those_of_masked_runs() -> None:
    from interp.circuits.edges.attribution import Contrast
    from interp.circuits.graph.flow import Flow
    from interp.circuits.question import Question
    from interp.hooks.metrics import metric
    from interp.hooks.pairs import tokenise

    result = found(size=12)
    pairs = tokenise(model().tokenizer, task().examples(model().tokenizer).examples[8:])
    flow = Flow.of(model())
    contrast = Contrast(
        flow, Question.of(pairs, metric("logit_diff")), flow.record(pairs.clean), flow.record(pairs.corrupt)
    )
    wanted = MaskedRuns(contrast).values([result.edges, result.graph.full, result.graph.none]).numpy()
    for own, other in zip((result.values, result.curves.full, result.curves.empty), wanted, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_a_threshold_takes_the_edges_above_it() -> None:
    scores = found(size=12).scores
    level = float(np.sort(np.abs(scores[found(size=12).graph.full]))[-6])
    assert found(threshold=level).n_edges <= 6
    assert np.abs(found(threshold=level).scores[found(threshold=level).edges]).min() >= level


def test_roles_have_edges_of_their_own() -> None:
    mini = model("mini")
    result = interp.circuit(mini, interp.task("ioi", n=4), size=0.02, positions="roles", batch_size=4, **QUICK)
    assert result.graph.places == ("io", "s1", "s2", "end", "rest")
    assert result.graph.n_edges == 5 * 1055
    plain = interp.circuit(mini, interp.task("ioi", n=4), size=0.02, batch_size=4, **QUICK)
    np.testing.assert_allclose(result.scores.sum(0), plain.scores[0], atol=2e-4)
    logits = result.scores[:, :, -1]
    assert np.abs(logits[3]).max() > 0 and not np.abs(logits[[0, 1, 2, 4]]).any()  # the answer is read at the end


def test_every_ablation_has_its_row_or_its_reason() -> None:
    result = interp.circuit(model(), task(), size=12, n_random=2, n_curve=1, beside=("zero", "mean"))
    assert [row.replacement for row in result.ablations] == ["resample", "zero", "mean"]
    assert all(np.isfinite(row.f) or row.note for row in result.ablations)


def test_a_circuit_survives_its_folder_and_prints(tmp_path: Path) -> None:
    result = found(size=12)
    assert Circuit.load(result.save(tmp_path / "run")) == result
    assert interp.open_result(tmp_path / "run") == result
    assert "12 of" in repr(result) and "embed" in result._repr_html_()
    frame = result.to_frame()
    assert len(frame) == result.graph.n_edges and frame["in_circuit"].sum() == 12


def test_the_page_shows_the_picture_the_tables_and_the_proof() -> None:
    page = render([found(size=12)])
    for words in ("The circuit", "What would refute it", "Canary: edges", "Under each ablation", "falls short"):
        assert words in page
    assert page.count("<script") == 4 and 'class="circuit' in page


def test_scorers_name_heads_of_the_circuit() -> None:
    name = "planted-induction"
    result = interp.circuit(model(name), task(name), size=6, **QUICK)
    scores = interp.score(model(name), "previous-token", task(name))
    named = result.with_roles([scores])
    assert isinstance(named.roles, Roles)
    claims = {label for label, claimed in zip(scores.labels, scores.evidence.claimed, strict=True) if claimed}
    assert set(named.roles.names) == claims & set(result.heads)
    assert named.roles.shares[0].inside == len(named.roles.names)
    with pytest.raises(InterpError, match="E205"):
        found(size=12).with_roles([scores])


def test_settings_that_do_not_fit_are_refused() -> None:
    assert refusal(method="eep").code == "E201" and "eap" in refusal(method="eep").fix
    assert refusal(ablation="nothing").code == "E201"
    assert refusal(size=5, threshold=0.1).code == "E205"
    assert refusal(n_curve=0).code == "E205"
    assert refusal(size=10_000).code == "E203"
    assert refusal(positions="roles").code == "E313"
    assert refusal(metric="top1").code == "E407"


def test_a_metric_without_a_gap_is_refused(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (ROOT / CHAIN / "examples.jsonl").read_text("utf-8").splitlines()[:8]]
    path = tmp_path / "same.jsonl"
    path.write_text("\n".join(json.dumps({**row, "corrupt": row["clean"]}) for row in rows), "utf-8")
    with pytest.raises(InterpError, match="gap") as caught:
        interp.circuit(model(), file_task(path), size=5, **QUICK)
    assert caught.value.code == "E407" and caught.value.fix


def test_one_prompt_cannot_choose_and_judge() -> None:
    with pytest.raises(InterpError) as caught:
        interp.circuit(model(), task(n=1), size=5, **QUICK)
    assert caught.value.code == "E311"


def test_a_choice_says_one_thing() -> None:
    with pytest.raises(InterpError, match="E205"):
        Choice()
    with pytest.raises(InterpError, match="E205"):
        Choice(size=-1)


@pytest.mark.parametrize("end", [".json", ".pt", ".graph.json", ".graphml"])
def test_a_circuit_goes_out_and_comes_back_as_scores(end: str, tmp_path: Path) -> None:
    result, path = found("planted-induction-gqa", size=5), tmp_path / f"circuit{end}"
    export(result, path)
    again = interp.circuit(model("planted-induction-gqa"), task("planted-induction-gqa"), scores=path, size=5, **QUICK)
    np.testing.assert_array_equal(again.scores, result.scores.astype(np.float32))
    np.testing.assert_array_equal(again.edges, result.edges)
    assert again.run.method["method"] == "given" and again.stability is None and np.isnan(again.q).all()


def test_files_of_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="E204"):
        export(found(size=12), tmp_path / "circuit.txt")
    assert refusal(scores=tmp_path / "none.json").code == "E204"


def test_circuits_are_compared_with_chance_beside() -> None:
    large, small = found(size=12), found(size=6)
    both = compare(large, small)
    assert both.edges.shared == small.n_edges and both.edges.of_smaller == 1.0
    assert both.edges.expected == pytest.approx(large.n_edges * small.n_edges / 80)
    assert "share" in repr(both) and both.nodes.what == "nodes"
    with pytest.raises(InterpError, match="E205"):
        compare(large, found("planted-induction-gqa", size=5))


def test_checks_find_both_arms_of_a_gate_and_survive_the_folder(tmp_path: Path) -> None:
    result = interp.circuit(model("planted-or"), task("planted-or", n=32), size=4, checks=True, **QUICK)
    assert result.checks is not None
    assert {"L0H1", "L0H3"} in [set(one.labels) for one in result.checks.redundant]
    assert {one.test for one in result.checks.findings} >= {"equivalence", "sufficiency", "minimality"}
    assert Circuit.load(result.save(tmp_path / "run")) == result
    assert "L0H1 + L0H3" in render([result])


def test_a_budget_is_planned_held_and_refused_where_it_is_too_small() -> None:
    mini, few = model("mini"), interp.task("docstring", n=8)
    some = interp.circuit(mini, few, size=40, method="eap", budget=24, **QUICK)
    plain = interp.circuit(mini, few, size=40, method="eap", **QUICK)
    assert "MiB" in some.run.method["plan"] and some.run_id == plain.run_id
    np.testing.assert_allclose(some.scores, plain.scores, atol=1e-4)
    with pytest.raises(InterpError) as caught:
        interp.circuit(mini, few, size=40, method="eap", budget=1, **QUICK)
    assert caught.value.code == "E603" and "memory" in caught.value.fix


def test_no_prompt_both_chooses_and_judges() -> None:
    """Another seed of a small task draws some prompts again; the same seed draws them all."""
    few = interp.task("greater_than", n=64)
    same = replace(few, n=32)
    mini = model("mini")
    with pytest.raises(InterpError) as caught:
        interp.circuit(mini, few, judge=same, size=30, **QUICK)
    assert caught.value.code == "E311"
    sides = both_sides(mini, few, replace(few, seed=3), None, "resample", "none", truncate=False, first_token=False)
    first, second = ({example.clean for example in side.pairs.examples} for side in sides)
    assert not first & second
    again = [example.clean for example in replace(few, seed=3).examples(mini.tokenizer).examples]
    assert sum(drop.code == "E315" for drop in sides[1].found.drops) == sum(clean in first for clean in again)


def test_prompts_that_judge_without_a_gap_are_refused_before_anything_is_scored(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (ROOT / CHAIN / "examples.jsonl").read_text("utf-8").splitlines()[8:16]]
    path = tmp_path / "flat.jsonl"
    path.write_text("\n".join(json.dumps({**row, "corrupt": row["clean"]}) for row in rows), "utf-8")
    done: list[int] = []
    with pytest.raises(InterpError) as caught:
        interp.circuit(model(), task(n=8), judge=file_task(path), size=5, progress=lambda *_: done.append(1), **QUICK)
    assert caught.value.code == "E407" and not done
