"""`interp sinks` from options to run folders and exit codes, and its figures."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from interp.loading import load
from interp.report.sink_figures import change_by_domain, criteria_matrix, received_heatmap, sink_by_length
from interp.sinks.effects import SinkEffects
from interp.sinks.result import SinkReport
from interp.sinks.run import sinks
from interp.tasks.registry import task

ASK = ("-M", "planted-sink", "-t", "bundled", "--task-args", "model=planted-sink", "--no-progress", "-o", "x")


def test_the_verb_says_what_it_found_and_its_command_repeats_the_run(cli) -> None:
    said = cli("sinks", *ASK, "--role", "trigger=again", "--controls", "1", "--limit", "8")
    assert said.code == 0, said.err
    report = SinkReport.load("x")
    assert said.out.startswith(report.headline()) and said.out.endswith("run:    x\n")
    assert report.run.method["token_roles"] == {"trigger": ["again"]} and report.run.method["n_controls"] == 1
    assert report.states("L0H3")["trigger"] == "active" and report.states("L0H3")["other"] == "dormant"
    words = shlex.split(report.run.command)
    again = cli(*words[1:], "--no-progress", "--overwrite", "--json")
    assert again.code == again.data["exit_code"] == 0 and again.data["run_id"] == report.run_id
    assert [row["head"] for row in again.data["rows"]][0] == "L0H3" and again.data["kept"] == 8
    assert np.array_equal(SinkReport.load("x").effects, report.effects, equal_nan=True)


@pytest.mark.parametrize("question", ["purpose", "calibration"])
def test_the_other_questions_give_effects(cli, question) -> None:
    said = cli("sinks", *ASK, "--question", question, "--controls", "2", "--limit", "12")
    assert said.code == 0, said.err
    result = SinkEffects.load("x")
    assert said.out.startswith(result.headline()) and result.run.method["question"] == question
    assert all(cell in said.out for cell in result.table(1)[0] if cell)


def test_options_that_make_no_sense_are_refused(cli) -> None:
    assert "INTERP-E201" in cli("sinks", *ASK, "--question", "why").err
    assert "INTERP-E205" in cli("sinks", *ASK, "--role", "trigger").err
    assert "INTERP-E205" in cli("sinks", *ASK, "--lengths", "a,b").err
    assert cli("sinks", *ASK, "--lengths", "4000", "--no-dormancy").code == 3


def test_figures_show_the_numbers_of_the_report() -> None:
    report = sinks(load("mini"), task("ioi", n=4), lengths=(24, 48), layers=(1, 2), n_controls=1)
    grid = np.array(received_heatmap(report).data[0].z, dtype=float)
    assert grid.shape == (2, 8) and grid[1, 3] == report.mean("received")[report.index("L2H3"), 0]
    lines = sink_by_length(report).data
    assert len(lines) == 17 and list(lines[-1].x)[1:] == [24, 48]
    assert lines[-1].y[1] == pytest.approx(np.nanmean(report.by_length["received"][0, :, 0]))
    shown = [head for head, one in zip(report.heads, report.criteria, strict=True) if one.attention or one.drained]
    matrix = criteria_matrix(report, shown).data[0].z
    assert [row[0] for row in matrix] == [float(report.criteria[report.index(head)].attention) for head in shown]
    points = change_by_domain(report, report.heads).data[0].x
    assert np.array_equal(points, report.changes.mean[:, report.domains.index("resting")], equal_nan=True)
