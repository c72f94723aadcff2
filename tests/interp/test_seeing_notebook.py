"""The notebook on vision heads runs, and what it says is so."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "notebooks" / "07_vision_heads.py"


def test_reinforced_heads_lower_false_yes_and_so_do_the_controls(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(SOURCE))
    lost = names["flow"].lost.mean(-1)  # by path and layer: image to text, image to end, text to end
    assert abs(lost[0]).max() < 0.5 and lost[1].argmax() == 1 and lost[2].argmax() == 0 and lost[1:].max(1).min() > 2
    attention, random, least = names["curve"].values[:, 1].mean(-1)
    assert attention > random > least
    rows = {row.method: row for row in names["study"].rows}
    heads, blanket, bias = (
        rows[name] for name in ("reinforce VHD heads", "reinforce all heads", "lower the logit of yes")
    )
    assert heads.meets and blanket.reduction >= 0.3 and bias.reduction >= 0.3
    assert max(heads.controls) > heads.reduction / 2 and abs(heads.beyond) < 0.05
    assert rows["VAR"].reduction == 0 and rows["VHR"].reduction < 0 and rows["boost image tokens"].reduction < 0
    assert "beyond a threshold" in capsys.readouterr().out
