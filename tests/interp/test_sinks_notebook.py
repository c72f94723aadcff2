"""The notebook on attention sinks runs, and what it was made to show is so."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from interp.sinks.edits import REMOVED, ZEROED

SOURCE = Path(__file__).parents[2] / "notebooks" / "05_attention_sinks.py"


def test_both_sinks_are_needed_and_the_planted_one_for_rest(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(SOURCE))
    table = names["rows"]
    assert (
        table["softmax"]["BOS receives"] > 0.3 > 0.01 > max(table[one]["BOS receives"] for one in ("relu", "sigmoid"))
    )
    assert all(row["KL without the head, on (nats)"] > 2 and row["off"] < 0.02 for row in table.values())
    assert [spot.position for spot in names["moved"].hidden] == [2, 5, 8]
    prompts = {prompt.tokens for prompt in names["report"].prompts}
    assert not prompts & {prompt.tokens for prompt in names["answer"].prompts}
    known, answer = ({row.label: row for row in names[name].top()} for name in ("known", "answer"))
    assert known[REMOVED].claimed and known[ZEROED].mean == 0
    assert answer[REMOVED].claimed and answer[REMOVED].mean > 3 * abs(answer[REMOVED].control_mean)
    assert "a place to rest" in capsys.readouterr().out
