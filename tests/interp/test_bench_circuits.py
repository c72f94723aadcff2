"""The bench of circuit discovery: known truths, figures against plain loops, statements on made-up tables, its page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from interp.bench.circuits.cells import FLOOR, Cell, judged, measure, strength
from interp.bench.circuits.contenders import DRAWS, STEPS, Contender, Ranked, contenders
from interp.bench.circuits.grid import grid, notes, shown
from interp.bench.circuits.page import render
from interp.bench.circuits.run import run
from interp.bench.circuits.summary import briefs, ranks
from interp.bench.circuits.table import STORED, CircuitBench, Row, stored
from interp.bench.circuits.truths import Asked, cases, ground_truths
from interp.bench.circuits.verdicts import verdicts
from interp.circuits.edges.methods import METHODS
from interp.cli.main import app
from interp.kernels.errors import InterpError
from interp.zoo.edges import mattering, sweep
from interp.zoo.registry import list_models

SMALL = ("planted-copy", "compiled-hist")
SOME = ("exact", "eap", "random")


@pytest.fixture(scope="module")
def bench():
    return run(SMALL, SOME, prompts=8, command="interp bench circuits")


@pytest.fixture(scope="module")
def case():
    return next(cases(ground_truths(["planted-copy"], ["resample"]), prompts=8))


def plain_precision(scores, truth):
    """Mean share of true edges up to each true edge, all scores different."""
    order = sorted(range(len(scores)), key=lambda edge: -scores[edge])
    hits, shares = 0, []
    for place, edge in enumerate(order, 1):
        if truth[edge]:
            hits += 1
            shares.append(hits / place)
    return sum(shares) / len(shares)


def plain_auroc(scores, truth):
    pairs = [
        (a, b) for a, t in zip(scores, truth, strict=True) if t for b, u in zip(scores, truth, strict=True) if not u
    ]
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def test_figures_equal_plain_loops(case):
    rows = np.random.default_rng(0).normal(size=(5, *case.graph.full.shape))
    found, truth = judged(case, rows), case.edges[case.graph.full]
    size = np.abs(rows).mean(0)[case.graph.full]
    assert found["precision"] == pytest.approx(plain_precision(size, truth), abs=1e-12)
    assert found["netted"] == pytest.approx(plain_precision(np.abs(rows.mean(0))[case.graph.full], truth), abs=1e-12)
    assert found["auroc"] == pytest.approx(plain_auroc(size, truth), abs=1e-12)
    assert 0 < found["precision"] < 1 and found["netted"] != found["precision"] and found["silent"] == 0


def test_a_floor_ties_what_is_small(case):
    scores = np.where(case.edges, 0.1 * FLOOR, 0.2 * FLOOR) * case.graph.full
    edges = np.argwhere(case.edges)
    scores[tuple(edges[0])] = 1.0
    found = judged(case, scores[None])
    assert found["floored"] > found["precision"] and found["auroc_floored"] > found["auroc"]


def test_an_edge_that_helps_one_prompt_and_hurts_the_next_is_ranked_high(case):
    rows = np.zeros((2, *case.graph.full.shape))
    edge = tuple(np.argwhere(case.edges)[0])
    rows[0][edge], rows[1][edge] = 1.0, -1.0
    assert strength(rows)[edge] == 1 and rows.mean(0)[edge] == 0


def test_true_edges_are_those_of_an_independent_sweep(case):
    model, batch = case.flow.model, case.posed.question.batch
    effects = sweep(model.adapter.model, batch.input_ids, case.posed.corrupt.input_ids)
    found = case.graph.of_labels(mattering(effects, 0.01))
    assert (found == case.edges).all()


def test_compiled_truths_are_about_the_position_that_is_read():
    case = next(cases(ground_truths(["compiled-reverse"], ["zero"])))
    ids = case.posed.question.batch.input_ids
    assert (case.posed.question.read_at == ids.shape[1] - 1).all()
    model = case.flow.model.adapter.model
    read, earlier = (sweep(model, ids, at=at) for at in (slice(-1, None), slice(1, -1)))
    assert (case.graph.of_labels(mattering(read, 1e-6)) == case.edges).all()
    assert set(mattering(earlier, 1e-6)) - set(case.truth.labels) == {"embed->M1"}
    assert measure(case, *contenders(["exact"])).precision == pytest.approx(1.0)


def test_labels_of_shared_keys_are_those_of_the_graph():
    case = next(cases(ground_truths(["planted-induction-gqa"], ["resample"]), prompts=2))
    labels = set(case.graph.labels(case.edges))
    layers = case.graph.layers
    assert any("KV" in label for label in labels) and layers[0].heads > layers[0].kv_heads
    for stated in case.truth.labels:
        writer, reader = stated.split("->")
        if reader.endswith((".k", ".v")):
            layer, head = map(int, reader[1:-2].split("H"))
            reader = f"L{layer}KV{head * layers[layer].kv_heads // layers[layer].heads}{reader[-2:]}"
        assert f"{writer}->{reader}" in labels


def test_every_stated_truth_takes_part():
    stated = {
        (name, kind)
        for name, card in list_models().items()
        for kind in card.get("truth", {}).get("edges", {})
        if kind != "program"
    }
    assert {(truth.model, truth.ablation) for truth in ground_truths()} == stated and len(stated) > 30


def test_every_registered_method_takes_part():
    every = contenders()
    assert {one.method for one in every} - {""} == set(METHODS)
    for integrating in ("eap-ig", "eap-ig-activations", "mask-gradient"):
        assert [one.steps for one in every if one.method == integrating][: len(STEPS)] == list(STEPS)
    assert len({one.name for one in every}) == len(every)
    assert {one.name for one in every if one.sort != "method"} == {"codes", "tracing", "magnitude", "random"}


def test_the_table_on_two_models(bench):
    assert len(bench.cells) == len(bench.truths) * 3 == 12
    assert all(bench.precision(truth.name, "exact") == pytest.approx(1.0) for truth in bench.truths)
    for truth in bench.truths:
        assert abs(bench.precision(truth.name, "random") - truth.chance) < 0.15
        assert bench.precision(truth.name, "random") < bench.precision(truth.name, "eap")
        assert bench.cell(truth.name, "exact").forwards > bench.cell(truth.name, "eap").forwards > 0
        assert bench.cell(truth.name, "exact").mib > 0 and bench.cell(truth.name, "eap").seconds > 0
        assert truth.prevalence == truth.true / truth.edges


def test_random_is_a_mean_over_draws(case):
    (chance,) = contenders(["random"])
    found = chance.run(case, 0)
    assert len(found.draws) == DRAWS
    each = [judged(case, rows)["precision"] for rows in found.draws]
    assert measure(case, chance).precision == pytest.approx(np.mean(each)) and np.std(each) > 0
    assert measure(case, chance, seed=1).precision != measure(case, chance).precision


def test_observers_answer_or_say_why_not(case):
    for name in ("codes", "tracing"):
        cell = measure(case, *contenders([name]))
        assert (cell.precision is None) == bool(cell.error)
    assert measure(case, *contenders(["tracing"])).forwards == 1


def test_a_refusal_becomes_a_cell_that_says_so(case):
    def refuse(case, seed):
        raise InterpError("E403", "no such thing")

    def broken(case, seed):
        return Ranked((np.full((1, *case.graph.full.shape), np.nan),), 0.0)

    cell = measure(case, Contender("none", "", "method", refuse))
    assert cell.error == "INTERP-E403: no such thing" and cell.precision is None and shown(cell) == "refused"
    assert "E207" in measure(case, Contender("none", "", "method", broken)).error


def test_a_bug_is_no_refusal(case):
    def wrong(case, seed):
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        measure(case, Contender("none", "", "method", wrong))


def test_prompts_without_answers_are_asked_for_closeness():
    case = next(cases(ground_truths(["compiled-frac-prevs"], ["resample"]), prompts=8))
    assert Asked.of(case).metric == "closeness"
    flat, full = (measure(case, *contenders([name])) for name in ("eap", "exact"))
    assert flat.silent == Asked.of(case).true and flat.auroc == 0.5, "at the clean run its gradient is 0"
    assert full.precision == pytest.approx(1.0) and full.silent == 0


def made_up(values, kind="planted"):
    """A table of one truth for each entry, a contender for each key of it."""
    rows = [Row(name, "", "control" if name == "random" else "method", name.split(" ")[0], 5 * name.startswith("eap-ig"))
            for name in values[0]]  # fmt: skip
    truths = [Asked(f"m{place}", kind, "zero", "logit_diff", 1, 10, 2, 0.2) for place in range(len(values))]
    cells = [
        Cell(truth.model, "zero", name, *([value] * 5 if isinstance(value, float) else []),
             error="" if isinstance(value, float) else value)
        for truth, row in zip(truths, values, strict=True) for name, value in row.items()
    ]  # fmt: skip
    machine = {"processor": "p", "threads": 1}
    record = {"settings": {"prompts": 1}, "machine": machine, "versions": {"torch": "2"}, "seconds": 1.0, "started": "",
              "command": "interp bench circuits"}  # fmt: skip
    return CircuitBench(record, tuple(truths), tuple(rows), tuple(cells))


def said(bench):
    return {one.says.split(" ")[0] + " " + one.says.split(" ")[-1]: one for one in verdicts(bench)}


GOOD = {"exact": 1.0, "eap": 0.5, "eap-ig 5 steps": 1.0, "random": 0.1}


def test_statements_on_a_table_where_all_hold():
    found = said(made_up([GOOD, GOOD]))
    assert (
        found["exact model"].met and found["eap-ig model"].met and found["where it"].met and found["random model"].met
    )
    assert found["on 0.9"].met is None and found["codes model"].met is None
    learnt = said(made_up([{**GOOD, "exact": 0.95}], "trained to order"))
    assert learnt["on 0.9"].met and learnt["exact model"].met is None


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"exact": 0.99}, "exact model"),
        ({"exact": "INTERP-E403: no"}, "exact model"),
        ({"eap-ig 5 steps": 0.9}, "eap-ig model"),
        ({"eap-ig 5 steps": 0.5}, "where it"),
        ({"eap": 0.1}, "random model"),
        ({"eap": 0.05}, "random model"),
    ],
)
def test_one_cell_breaks_a_statement_and_is_named(change, broken):
    found = said(made_up([GOOD, {**GOOD, **change}]))
    assert found[broken].met is False and any("m1" in line for line in found[broken].against)
    assert not any("m0" in line for line in found[broken].against)


def test_a_poor_best_method_is_named():
    found = said(made_up([{**GOOD, "exact": 0.8, "eap-ig 5 steps": 0.89}], "trained to order"))["on 0.9"]
    assert found.met is False and found.against == ("m0, zero: eap-ig 5 steps 0.89",)


def test_ranks_and_means():
    bench = made_up([GOOD, {**GOOD, "exact": "INTERP-E403: no", "eap": 0.7}])
    assert ranks(bench, bench.truths[0]) == {"exact": 1.5, "eap-ig 5 steps": 1.5, "eap": 3.0, "random": 4.0}
    by_name = {one.contender: one for one in briefs(bench)}
    assert (by_name["exact"].answered, by_name["exact"].asked, by_name["exact"].perfect) == (1, 2, 1)
    assert by_name["eap"].precision == pytest.approx(0.6) and by_name["eap"].rank == pytest.approx(2.5)
    assert [one.contender for one in briefs(bench)][-1] == "random"
    assert any("exact refused m1" in note and "E403" in note for note in notes(bench))


def test_truths_about_more_than_the_metric_are_named():
    learnt = made_up([GOOD], "trained to order")
    assert [note.split(":")[0] for note in notes(learnt)] == ["m0, zero"] and "distribution" in notes(learnt)[0]
    assert not notes(made_up([GOOD]))


def test_figures_are_never_rounded_up_to_one():
    assert shown(Cell("m", "zero", "eap", 0.9999)) == "0.99" and shown(Cell("m", "zero", "eap", 1 - 1e-12)) == "1"


def test_a_table_is_stored_and_read(bench, tmp_path):
    path = bench.save(tmp_path / "found.json")
    again = CircuitBench.load(path)
    assert grid(again) == grid(bench) and again.to_dict() == bench.to_dict()
    other = {**json.loads(path.read_text()), "schema": 0}
    path.write_text(json.dumps(other))
    with pytest.raises(InterpError, match="E702"):
        CircuitBench.load(path)
    path.write_text("{")
    with pytest.raises(InterpError, match="E701"):
        CircuitBench.load(path)
    with pytest.raises(InterpError, match="E602"):
        CircuitBench.load(tmp_path / "none.json")


def test_the_shipped_result_covers_every_truth_and_is_small():
    found = stored()
    assert STORED.stat().st_size < 200_000
    assert {truth.name for truth in found.truths} == {truth.name for truth in ground_truths()}
    assert len(found.cells) == len(found.truths) * len(found.rows)
    for truth, stated in zip(found.truths, ground_truths(), strict=True):
        assert truth.true == len(set(stated.labels)) or "gqa" in truth.model
    assert all(cell.error or 0 <= cell.precision <= 1 for cell in found.cells)


def test_growth_beats_what_knows_nothing_on_every_truth():
    found = stored()
    for truth in found.truths:
        for control in ("codes", "random"):
            assert found.precision(truth.name, "growth") > (found.precision(truth.name, control) or 0), truth.name


def test_the_shipped_result_comes_out_again():
    found = stored()
    for fresh in run(["planted-copy"], ["exact", "eap"], prompts=found.run["settings"]["prompts"]).cells:
        kept = found.cell(fresh.truth, fresh.contender)
        assert kept.precision == pytest.approx(fresh.precision, abs=1e-3)
        assert kept.forwards == pytest.approx(fresh.forwards, rel=1e-4)


def test_the_page_says_all_and_loads_nothing(bench):
    text = render(bench)
    assert text == render(bench)
    for word in (
        "planted-copy",
        "compiled-hist",
        "NOT MET" if any(one.met is False for one in verdicts(bench)) else "met",
    ):
        assert word in text
    assert "http://" not in text and "https://" not in text and "default-src &#39;none&#39;" in text
    hostile = replace(bench, run={**bench.run, "command": "<script>alert(1)</script>"})
    assert "<script>alert" not in render(hostile)


def invoke(*words):
    return CliRunner().invoke(app, ["bench", "circuits", *words])


def test_the_verb_measures_prints_and_writes(tmp_path):
    out, page = tmp_path / "found.json", tmp_path / "found.html"
    words = ("--models", "planted-copy", "--methods", "eap,random", "--ablation", "resample", "--prompts", "4",
             "--threads", "0", "--no-progress", "--out", str(out), "--report", str(page))  # fmt: skip
    found = invoke(*words)
    assert found.exit_code == 0, found.output
    assert "--out" not in CircuitBench.load(out).run["command"], "where figures are written changes none"
    assert "planted-copy" in found.output and "random is beaten by every method" in found.output
    assert CircuitBench.load(out).truths[0].prompts == 4 and "planted-copy" in page.read_text()


def test_the_verb_shows_what_is_stored():
    found = invoke("--stored", "--json")
    assert found.exit_code == 0
    assert len(json.loads(found.stdout)["cells"]["rows"]) == len(stored().cells)


@pytest.mark.parametrize(
    ("words", "named"),
    [(("--models", "mini"), "mini"), (("--methods", "eapp"), "eap"), (("--ablation", "mean"), "mean")],
)
def test_wrong_names_are_refused(words, named):
    found = invoke(*words)
    assert found.exit_code == 2 and "E201" in found.output and named in found.output
