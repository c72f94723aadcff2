"""The notebook on safety heads runs, and what it says of `mini` is so, on templates and facts that found nothing."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "notebooks" / "06_safety_heads.py"


def test_a_small_group_makes_mini_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(SOURCE))
    report, verdict = names["report"], names["report"].verdict
    assert verdict.claimed and 1 <= len(report.group) <= 5
    assert verdict.times.ci_low > 10 and verdict.cost.ci_high < 0.1
    assert verdict.base_replies.mean == 0 and verdict.compliance.mean > 5 * verdict.strongest_control
    assert not {one.tokens for one in report.prompts} & {one.tokens for one in report.held_out}
    assert report.complied["legacy"][report.group_row].mean() < 0.1 < 0.2 < verdict.replies.mean
    ranks = report.agreement("refusal")
    assert ranks.loc["zero", "scale"] > 0.99 and ranks.loc["uniform", "resample"] < 0.7
    assert names["cost"]["zero"] > 0.2 > 0.1 > verdict.cost.mean, "L0H1 costs harmless requests more than the group"
    assert names["direction"].layer == 3 and names["direction"].position == -1
    written = [row.label for row in names["along"].top(5)]
    assert set(written) >= {label for label in report.group if label.startswith("L1")} and "L0H7" not in written
    assert report.numbers["compliance"][report.rows_of("control")].mean(1).max() > 10 * verdict.base
    assert "claimed: True" in capsys.readouterr().out
