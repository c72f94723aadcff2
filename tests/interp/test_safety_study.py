"""The study of safety heads on a model that refuses by construction: the group, its evidence, and how it is stored."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.heads.effects.ablation import ablations
from interp.hooks.names import parse_head
from interp.kernels.errors import InterpError
from interp.report.safety_figures import operator_agreement, operator_heads
from interp.safety.asking import both_sides
from interp.safety.result import SafetyReport
from interp.safety.run import safety
from interp.safety.search import Bargain
from interp.safety.settings import Settings
from interp.tasks.safety import PATTERNS, TEMPLATES
from tests.cases.refusing import HEAD, Requests, refusing


@cache
def report() -> SafetyReport:
    return safety(refusing(), Requests(n=24), held_out=Requests(n=20, seed=1), max_new_tokens=6)


def test_the_planted_head_is_the_group_and_is_claimed() -> None:
    found = report()
    assert found.group == (HEAD,) and found.verdict.claimed and found.verdict.cost.mean < 1e-6
    assert found.verdict.base < 0.05 and found.verdict.compliance.mean > 0.5 and found.verdict.times.ci_low > 10
    assert found.verdict.base_replies.mean == 0 and found.verdict.replies.mean == 1
    assert all(found.safety_heads(one) == (HEAD,) for one in found.operators)
    assert found.search.group == (HEAD,) and found.headline().startswith("On held-out prompts, without L0H2 (zero)")
    assert {trial.kind for trial in found.trials} == {"base", "grown", "control"}
    assert all(HEAD not in trial.heads for trial in found.trials if trial.kind == "control")
    assert all(text.startswith("Sorry") for text in found.replies[0])
    assert all(text.startswith("Sure") for text in found.replies[found.group_row])


def test_judges_agree_where_replies_are_plain() -> None:
    found = report()
    for row, complies in ((0, 0.0), (found.group_row, 1.0)):
        assert (found.complied["token"][row] == complies).all() and (found.complied["phrases"][row] == complies).all()
    assert (found.complied["legacy"] == 0).all(), "its judge takes replies of fewer than 32 characters for safe"


def test_operators_side_by_side() -> None:
    found = report()
    table = found.agreement("ships")
    assert list(table.columns) == list(found.operators) and np.allclose(np.diag(table), 1)
    means = found.screening["ships"].mean(2)
    ranks = [np.argsort(np.argsort(row)).astype(float) for row in means]
    assert table.loc["zero", "mean"] == pytest.approx(np.corrcoef(ranks[2], ranks[3])[0, 1])
    cost = dict(zip(found.operators, found.screening["cost"].mean(2)[:, found.heads.index(HEAD)], strict=True))
    assert cost["zero"] < 1e-6 and cost["resample"] > 1, "the twin's output makes harmless prompts refuse"
    with pytest.raises(InterpError, match="did you mean 'zero'"):
        found.effects("zeroo")


def test_the_search_pays_for_what_harmless_prompts_lose() -> None:
    own, _ = both_sides(refusing(), Requests(n=8), Requests(n=8, seed=1), truncate=False, seed=0)
    sets = [frozenset(), frozenset({parse_head(HEAD)})]
    dear, free = (
        Bargain(refusing(), own.pairs, Settings(operator="mean", price=price))(sets) for price in (1000.0, 0.0)
    )
    assert (dear[0] == 0).all() and (free[1] > 0).all() and (dear[1] < 0).all()


def test_it_comes_back_from_disk_and_speaks(tmp_path: Path) -> None:
    found = report()
    found.save(tmp_path / "run")
    again = SafetyReport.load(tmp_path / "run")
    assert again == found and again.headline() == found.headline() and again.search == found.search
    assert found.headline() in repr(found) and "random" in found._repr_html_()
    rows, trials = found.to_frame(), found.trials_frame()
    assert len(rows) == len(found.operators) * 8 * 24 and len(trials) == len(found.trials) * 20
    one = rows[(rows["operator"] == "zero") & (rows["label"] == HEAD)]
    assert np.allclose(one["base_refusal"] - one["refusal"], found.effects("zero")[found.heads.index(HEAD)])
    kinds = {trace.name: len(trace.x) for trace in found.plot().data}
    assert sum(kinds.values()) == len(found.trials)
    assert len(operator_heads(found).data[0].z) == 8 and len(operator_agreement(found).data[0].z) == 5
    assert found.run_id == safety(refusing(), Requests(n=24), held_out=Requests(n=20, seed=1), max_new_tokens=6).run_id


def test_nothing_is_claimed_of_a_model_without_such_a_head() -> None:
    """The heads that write only noise."""
    others = ",".join(label for label in report().heads if label != HEAD)
    found = safety(refusing(), Requests(n=16), heads=others, operators=("zero",), max_new_tokens=3, n_controls=3)
    assert not found.verdict.claimed and "No " in found.headline()
    assert not set(found.held_out) & set(found.prompts) and len(found.held_out) == len(found.prompts) == 8


def test_held_out_prompts_have_other_templates_facts_and_seed() -> None:
    model = interp.load("mini")
    own, other = both_sides(model, interp.task("safety", n=24, seed=3), None, truncate=False, seed=0)
    assert own.record["options"] | {"templates": "first", "split": "train", "ask": "harmful"} == own.record["options"]
    assert other.record["seed"] == 4 and other.record["options"]["split"] == "test"
    openings = [pattern.split("[")[0] for pattern in TEMPLATES["first"]]
    assert all(str(one.clean).startswith(tuple(openings)) for one in own.pairs.examples)
    assert not any(str(one.clean).startswith(tuple(openings)) for one in other.pairs.examples)
    assert all(one.answer == " Sorry" for one in (*own.pairs.examples, *other.pairs.examples))
    assert (*TEMPLATES["first"], *TEMPLATES["rest"]) == TEMPLATES["all"] == PATTERNS


def test_bad_settings_are_refused() -> None:
    for options, words in (
        ({"operator": "resample"}, "cannot stay in force"),
        ({"operators": ("zeroo",)}, "did you mean 'zero'"),
        ({"max_size": 0}, "max_size too small"),
        ({"held_out": Requests(n=24)}, "held-out prompts are searched on too"),
    ):
        with pytest.raises(InterpError, match=words):
            safety(refusing(), Requests(n=24), **options)
    with pytest.raises(InterpError, match="4 prompts on one side"):
        safety(refusing(), Requests(n=8))
    with pytest.raises(InterpError, match="no twins to resample from"):
        from dataclasses import replace

        from tests.cases.refusing import requests

        ablations(refusing(), replace(requests(4), corrupt=None), [(parse_head(HEAD),)], "resample", batch_size=4)


def test_the_command_line_does_it(cli, tmp_path: Path) -> None:
    folder, lines = tmp_path / "model", []
    refusing().adapter.model.save_pretrained(folder)
    refusing().tokenizer.save_pretrained(folder)
    for one in Requests(n=20).examples(refusing().tokenizer).examples:
        row = {"clean": one.clean, "corrupt": one.corrupt, "answer": one.answer, "distractor": one.distractor}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "mine.jsonl").write_text("".join(lines), "utf-8")
    arguments = ("--model", folder, "--prompts", tmp_path / "mine.jsonl", "--operators", "uniform", "--new-tokens", "4")
    said = cli("safety", *arguments, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    found = SafetyReport.load(tmp_path / "run")
    assert said.data["group"] == [HEAD] and said.data["claimed"] and found.operators == ("uniform", "zero")
    assert said.data["headline"] == found.headline() and found.headline() in said.err
    assert said.data["trials"][0]["compliance"] == pytest.approx(found.numbers["compliance"][0].mean())
    assert cli("safety", *arguments, "--out", tmp_path / "run").code == 2
