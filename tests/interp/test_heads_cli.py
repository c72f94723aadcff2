"""`interp score` from options to run folders and exit codes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from interp.heads import scorers
from interp.heads.result import HeadScores

ASK = ("score", "-M", "mini", "--n", "6", "--no-progress", "-o", "x")


def test_scores_are_said_saved_and_repeated_by_their_command(cli) -> None:
    said = cli(*ASK, "--scorer", "induction", "--seed", "3", "--sinks", "excluded")
    assert said.code == 0 and said.err == ""
    result = HeadScores.load("x")
    assert said.out.startswith(result.headline()) and said.out.endswith("run:    x\n")
    assert result.run.method["sinks"] == "excluded" and result.run.seeds == {"task": 3, "evidence": 3}
    words = shlex.split(result.run.command)
    again = cli(*words[1:], "--no-progress", "--overwrite", "--json")
    assert again.code == 0 and again.data["scores"]["induction"]["run_id"] == result.run_id
    assert (HeadScores.load("x").values == result.values).all()
    rows = again.data["scores"]["induction"]["rows"]
    assert [row["label"] for row in rows] == list(result.heads)
    assert rows[0]["score"] == pytest.approx(result.mean[0])


def test_several_scorers_have_a_folder_each(cli) -> None:
    said = cli(*ASK, "--scorer", "induction,previous-token,copying", "--task", "induction", "--json")
    assert said.code == 0 and set(said.data["scores"]) == {"induction", "previous-token", "copying"}
    assert {path.name for path in Path("x").iterdir()} == {"induction", "previous-token", "copying"}
    assert HeadScores.load("x/copying").p and HeadScores.load("x/induction").run.task["name"] == "induction"


def test_the_list_has_a_line_and_a_source_for_each(cli) -> None:
    said = cli("score", "--list")
    assert said.code == 0
    lines = said.out.splitlines()
    assert len(lines) == len(scorers())
    for line, (name, kind) in zip(lines, scorers().items(), strict=True):
        assert line.startswith(f"{name}: ") and kind.source in line
    assert set(cli("score", "--list", "--json").data["scorers"]) == set(scorers())


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("-M", "mini"), "E205"),
        (("--scorer", "induction"), "E205"),
        (("-M", "mini", "--scorer", "inducktion"), "E201"),
        (("-M", "mini", "--scorer", "induction,induction"), "E205"),
        (("-M", "mini", "--scorer", "induction", "--task-args", "length=4"), "E205"),
        (("-M", "mini", "--scorer", "induction", "--sinks", "none"), "E201"),
        (("-M", "mini", "--scorer", "copying", "--sinks", "raw"), "E201"),
        (("-M", "mini", "--scorer", "retrieval", "--task", "induction", "--n", "2"), "E313"),
    ],
)
def test_mistakes_are_said_before_anything_runs(cli, options: tuple[str, ...], code: str) -> None:
    said = cli("score", *options)
    assert said.code in (2, 3) and f"INTERP-{code}" in said.err


def test_a_folder_of_something_else_is_left_alone(cli) -> None:
    Path("x").mkdir()
    Path("x/thesis.tex").write_text("years of work")
    said = cli(*ASK, "--scorer", "induction", "--overwrite")
    assert said.code == 2 and "INTERP-E204" in said.err
    assert [path.name for path in Path("x").iterdir()] == ["thesis.tex"]
