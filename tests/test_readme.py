"""What README.md shows can be typed, and does what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = (shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines())
    return [words for words in lines if words[:1] == ["interp"]]


def test_the_python_example_runs_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(example.replace("n=64", "n=8"), "README.md", "exec"), names)
    assert "ioi" in capsys.readouterr().out and names["edited"] is not None


def test_the_example_of_a_prompt_is_one_row_of_a_file(tmp_path: Path) -> None:
    from interp.tasks.file import file_task

    (row,) = blocks("json")
    path = tmp_path / "my.jsonl"
    path.write_text(row)
    assert file_task(path).n == 1 and json.loads(row)["answer"] == " Paris"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_understood(words: list[str]) -> None:
    """Every option exists; nothing is run."""
    from typer.main import get_command

    from interp.cli.main import app

    get_command(app).commands[words[1]].make_context(words[1], words[2:])  # type: ignore[attr-defined]


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) < 120
