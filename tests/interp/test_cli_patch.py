"""`interp patch`, `paths` and `dla` from options to run folders and exit codes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.attribution.result import AttributionResult
from interp.patching.result import PatchResult, PathResult

ASK = ("-M", "mini", "-t", "ioi", "--n", "6", "--no-progress", "-o", "x")
VERBS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "patch": (PatchResult, ("--heads", "L2H0,L2H1", "--controls", "1", "--positions", "end")),
    "paths": (PathResult, ("--senders", "L2H0,L2H1", "--controls", "1")),
    "dla": (AttributionResult, ("--controls", "1")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_what_it_found_and_its_command_repeats_the_run(cli, verb) -> None:
    kind, options = VERBS[verb]
    said = cli(verb, *ASK, *options, "--seed", "3")
    assert said.code == 0 and said.err == ""
    result = kind.load("x")
    assert (
        said.out.startswith(result.headline()) and result.remarks()[0] in said.out and said.out.endswith("run:    x\n")
    )
    assert all(cell in said.out for cell in result.table(1)[0] if cell)
    assert result.run.seeds == {"task": 3, "evidence": 3}
    words = shlex.split(result.run.command)
    assert words[:2] == ["interp", verb]
    again = cli(*words[1:], "--no-progress", "--overwrite", "--json")
    assert again.code == again.data["exit_code"] == 0
    assert (kind.load("x").values == result.values).all() and again.data["run_id"] == result.run_id
    assert [row["label"] for row in again.data["rows"]] == list(result.labels)
    assert again.data["rows"][0]["mean"] == pytest.approx(result.row(0).mean) and again.data["kept"] == 6


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_is_never_replaced_without_being_told(cli, verb) -> None:
    Path("x").mkdir()
    Path("x/thesis.tex").write_text("years of work")
    said = cli(verb, *ASK, *VERBS[verb][1], "--overwrite")
    assert said.code == 2 and "INTERP-E204" in said.err
    assert [path.name for path in Path("x").iterdir()] == ["thesis.tex"]


def test_sources_places_and_layers_are_read_from_text(cli) -> None:
    options = ("--heads", "L2H0", "--controls", "0", "--point", "q=clean,k=corrupt", "--positions", "3,4")
    assert cli("patch", *ASK, *options).code == 0
    method = PatchResult.load("x").run.method
    assert method["sources"] == {"q": "clean", "k": "corrupt"} and method["positions"] == [3, 4]
    streams = ("--point", "resid_mid", "--layers", "1,3", "--direction", "noise", "--positions", "roles")
    assert cli("patch", *ASK, *streams, "--overwrite").code == 0
    result = PatchResult.load("x")
    assert {cell.unit.layer for cell in result.cells} == {1, 3} and result.direction == "noise"
    assert cli("paths", *ASK, "--receivers", "L2H1.q, M2", "--senders", "L0H0", "--overwrite").code == 0
    assert PathResult.load("x").run.method["receivers"] == ["L2H1.q", "M2"]
    assert cli("dla", *ASK, "--position", "5", "--overwrite").code == 0
    assert AttributionResult.load("x").run.method["position"] == 5


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("patch", "--point", "q=clean,k"), 2, "E205"),
        (("patch", "--point", "resid_mid", "--layers", "one"), 2, "E205"),
        (("patch", "--positions", "3,x"), 2, "E205"),
        (("patch", "--direction", "back"), 2, "E201"),
        (("paths", "--receivers", "L0H0.q"), 2, "E205"),
        (("dla", "--position", "nowhere"), 3, "E313"),
    ],
)
def test_wrong_options_end_with_their_exit_code(cli, arguments, exit_code, code) -> None:
    said = cli(*arguments, *ASK)
    assert said.code == exit_code and f"INTERP-{code}" in said.err and not Path("x").exists()


def test_prompts_too_short_for_a_place_are_no_broken_numbers(cli) -> None:
    said = cli("patch", *ASK, "--heads", "L1H0", "--controls", "0", "--positions", "each")
    assert said.code == 0, said.err
    result = PatchResult.load("x")
    assert np.isnan(result.values).any() and result.n_not_finite == 0
