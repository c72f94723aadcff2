"""The notebook on vision heads runs, and what it says is so."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "notebooks" / "07_vision_heads.py"


def test_heads_that_read_the_picture_lower_false_yes_and_their_neighbours_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = runpy.run_path(str(SOURCE))
    lost = names["flow"].lost.mean(-1)  # by path and layer: image to text, image to end, text to end
    assert abs(lost[0]).max() < 0.5 and lost[1].argmax() == 1 and lost[2].argmax() == 0 and lost[1:].max(1).min() > 2
    attention, random, least = names["curve"].values[:, 1].mean(-1)
    assert attention > random > least
    rows = {row.method: row for row in names["study"].rows}
    heads, blanket, bias = (
        rows[name] for name in ("reinforce VHD heads (blank)", "reinforce all heads", "lower the logit of yes")
    )
    assert heads.meets and max(heads.controls) < 0.1 < 0.3 <= heads.reduction, "these heads, and not the others"
    assert blanket.reduction >= 0.3 and bias.reduction >= 0.3
    assert abs(heads.beyond) < 0.05, "a threshold, and not better sight"
    published = rows["reinforce VHD heads"]
    assert max(published.controls) > published.reduction / 2
    assert rows["VAR"].reduction == 0 and rows["VHR"].reduction < 0
    assert rows["VAR"].note and not rows["VHR"].note, "no visual sinks to act on"
    assert len(heads.controls) == 1, "half of a layer leaves one other half"
    assert "beyond a threshold" in capsys.readouterr().out
