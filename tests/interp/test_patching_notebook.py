"""The notebook on path patching runs, and what it was made to show is so."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parents[2] / "notebooks" / "03_who_writes_the_answer.py"


def test_found_senders_hold_on_templates_and_names_that_did_not_choose_them(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(SOURCE))
    chosen, held_out = names["chosen_on"], names["held_out"]
    assert not set(chosen.numbers) & set(held_out.numbers) and (chosen.split, held_out.split) == ("train", "test")
    prompts = {prompt.tokens for prompt in names["direct"].prompts}
    assert not prompts & {prompt.tokens for prompt in names["again"].prompts}
    assert names["writers"] and names["movers"] and names["way"] == "v"
    for (name, label), result in names["tests"].items():
        assert result.evidence.claimed[0], (name, label)
        assert result.evidence.mean[0] > 3 * np.abs(result.evidence.mean[1:]).max(), (name, label)
    said = capsys.readouterr().out
    assert said.count("above their random sets on 6 of 6 held-out templates") == 2
