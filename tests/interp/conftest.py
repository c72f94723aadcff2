"""The command line in this process, and small model folders to point it at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cases.browser import Chromium, Tab, new_tab


@dataclass(frozen=True)
class Said:
    """What a command said, and how it left."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The one JSON document on stdout; NaN in it is a mistake."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """`cli("ablate", "--model", ...)` in an empty folder."""
    from transformers.utils import logging
    from typer.testing import CliRunner

    from interp.cli.main import app

    logging.get_logger()  # writes to the stderr it met first, and that of a runner is closed after its command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: str | Path) -> Said:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="interp")
        return Said(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def prompts(tmp_path: Path) -> Callable[..., Path]:
    """`prompts({...}, {...})`: a JSONL file with these rows; rows that are text or bytes are written as they are."""

    def write(*rows: dict[str, Any] | str | bytes, name: str = "my.jsonl") -> Path:
        path = tmp_path / name
        lines = [
            row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
            for row in rows
        ]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`model_folder("llama")`: a tiny random model as `save_pretrained` writes it, with the tokenizer of `mini`.

    The tokenizer has a mask token besides; `change` may spoil the model first.
    """
    from transformers import AutoTokenizer

    from interp.hooks.tiny import tiny_model
    from interp.zoo.registry import ROOT

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "mini")
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})

    def make(name: str, change: Callable[[Any], None] | None = None) -> Path:
        folder = tmp_path_factory.mktemp(name)
        model = tiny_model(name, vocab_size=len(tokenizer))
        if change is not None:
            change(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the sweep of `tests.cases.table` comes to when nothing gets in its way."""
    from tests.cases.table import go, rows

    path = tmp_path_factory.mktemp("undisturbed") / "run"
    go(path)
    return rows(path)


@pytest.fixture(scope="session")
def chromium(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    running = Chromium(browser, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    with new_tab(chromium) as found:
        yield found
