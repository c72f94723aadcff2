"""`interp head` from options to a run folder and exit codes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from interp.passport.result import Passport

ASK = ("head", "L1H2", "-M", "planted-induction", "--n", "12", "--no-progress", "-o", "x")
FEW = ("--scorers", "induction,copying", "--operators", "zero,mean")


def test_a_passport_is_said_saved_and_repeated_by_its_command(cli) -> None:
    said = cli(*ASK, *FEW, "--seeds", "3,4", "--task", "induction", "--template", "length=12")
    assert said.code == 0 and said.err == ""
    found = Passport.load("x")
    assert said.out.startswith(found.headline()) and said.out.endswith("run:    x\n")
    assert found.settings == ("seed 3", "seed 4", "length=12") and "called induction" in said.out
    words = shlex.split(found.run.command)
    again = cli(*words[1:], "--no-progress", "--overwrite", "--json")
    assert again.code == 0 and again.data["run_id"] == found.run_id and again.data["flags"] == []
    assert again.data["labels"] == [label.name for label in found.labels]
    verdicts = {row["question"]: row for row in again.data["verdicts"]}
    assert verdicts["induction"]["value"] == pytest.approx(1, abs=1e-4)
    assert verdicts["induction"]["claimed_in"] == verdicts["induction"]["asked_in"] == 3
    assert Passport.load("x").readings[0].value == found.readings[0].value


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("L1H2",), "E205"),
        (("first", "-M", "planted-induction"), "E202"),
        (("L1H2", "-M", "planted-induction", "--seeds", "a"), "E205"),
        (("L1H2", "-M", "planted-induction", "--template", "length=12"), "E205"),
        (("L1H2", "-M", "planted-induction", "--task", "induction", "--template", "size=1"), "E201"),
        (("L1H2", "-M", "planted-induction", "--scorers", "inducktion"), "E201"),
        (("L5H2", "-M", "planted-induction", "--scorers", "induction"), "E203"),
    ],
)
def test_mistakes_are_said_before_anything_runs(cli, options: tuple[str, ...], code: str) -> None:
    said = cli("head", *options, "-o", "x")
    assert said.code == 2 and f"INTERP-{code}" in said.err and not Path("x").exists()


def test_a_folder_of_something_else_is_left_alone(cli) -> None:
    Path("x").mkdir()
    Path("x/thesis.tex").write_text("years of work")
    said = cli(*ASK, "--scorers", "induction", "--overwrite")
    assert said.code == 2 and "INTERP-E204" in said.err
    assert [path.name for path in Path("x").iterdir()] == ["thesis.tex"]
