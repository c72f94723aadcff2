"""`interp circuit` and `interp diff` of circuits: what is said, written and repeated, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.circuits.edges.methods import METHODS
from interp.discovery.result import Circuit
from interp.zoo.registry import ROOT

CHAIN = ROOT / "planted-chain" / "examples.jsonl"
ASK = ("-M", "planted-chain", "--prompts", str(CHAIN), "-L", "16", "--no-progress", "--random", "3", "-o", "x")


def test_the_verb_says_what_it_found_and_its_command_repeats_the_run(cli: Any) -> None:
    said = cli("circuit", *ASK, "--size", "12", "--seed", "2", "--export", "out.json", "--report", "page.html")
    assert said.code == 0 and said.err == ""
    result = Circuit.load("x")
    assert said.out.startswith(result.headline()) and result.remarks()[0] in said.out
    assert json.loads(Path("out.json").read_text("utf-8"))["cfg"]["n_layers"] == 3
    assert "What would refute it" in Path("page.html").read_text("utf-8")
    words = shlex.split(result.run.command)
    again = cli(*words[1:], "--no-progress", "--overwrite", "--json")
    assert again.code == 0 and again.data["run_id"] == result.run_id and again.data["edges"] == 12
    np.testing.assert_array_equal(Circuit.load("x").scores, result.scores)


def test_scores_of_a_file_are_judged(cli: Any) -> None:
    assert cli("circuit", *ASK, "--size", "12", "--export", "scores.pt").code == 0
    first = Circuit.load("x")
    assert cli("circuit", *ASK, "--size", "12", "--scores", "scores.pt", "--overwrite").code == 0
    assert Circuit.load("x").run.method["method"] == "given"
    np.testing.assert_array_equal(Circuit.load("x").edges, first.edges)


def test_other_options_of_the_task_judge(cli: Any) -> None:
    task = ("-M", "mini", "-t", "ioi", "--n", "8", "--task-args", "templates=first", "--judge-args", "templates=rest")
    said = cli(
        "circuit", *task, "--size", "30", "--random", "1", "--no-progress", "-o", "x", "--method", "eap", "--json"
    )
    assert said.code == 0
    run = Circuit.load("x").run
    assert run.task["options"]["templates"] == "first" and run.method["judge"]["options"]["templates"] == "rest"
    assert run.seeds["task"] == 0 and run.seeds["judge"] == 1


def test_two_circuits_are_held_against_each_other(cli: Any) -> None:
    assert cli("circuit", *ASK, "--size", "12").code == 0
    assert cli("circuit", *ASK[:-1], "y", "--size", "6").code == 0
    said = cli("diff", "x", "y", "--json")
    assert said.code == 0 and said.data["overlap"][0]["shared"] == Circuit.load("y").n_edges


def test_a_plan_is_told_and_nothing_written(cli: Any) -> None:
    said = cli("circuit", *ASK[:-2], "--plan", "--method", "acdc", "--json")
    assert said.code == 0 and not list(Path().iterdir())
    plan = said.data["plan"]
    assert (plan["method"], plan["prompts"], plan["batch"], plan["edges"]) == ("acdc", 8, 8, 80) and plan["bytes"] > 0
    few = cli("circuit", *ASK[:-2], "--plan", "--budget", "1", "--json")
    assert few.code == 0 and few.data["plan"]["bytes"] <= 2**20


def test_methods_are_listed_without_a_model(cli: Any) -> None:
    said = cli("circuit", "--methods", "--json")
    assert said.code == 0 and set(said.data["methods"]) == set(METHODS)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--method", "guess"), "E201"),
        (("--size", "3", "--threshold", "1"), "E205"),
        (("--set", "tau=1"), "E201"),
        (("--set", "steps=many"), "E205"),
        (("--judge-args", "n=3"), "E205"),
        (("--positions", "roles"), "E313"),
    ],
)
def test_mistakes_are_named(cli: Any, options: tuple[str, ...], code: str) -> None:
    said = cli("circuit", *ASK, *options)
    assert said.code != 0 and f"INTERP-{code}" in said.err and "fix:" in said.err


def test_settings_reach_the_method(cli: Any) -> None:
    assert cli("circuit", *ASK, "--size", "12", "--set", "steps=3", "--set", "rule=left").code == 0
    assert Circuit.load("x").run.method["settings"] == {"steps": 3, "rule": "left", "gap": None}
