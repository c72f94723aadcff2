"""What all tests share: no network, a fresh interpreter, and the browser where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = (
    "1"  # of the processes that tests start; tiny models: a second thread waits longer than it works
)
torch.set_num_threads(1)  # of this one, whose torch has read the environment already

ROOT = Path(__file__).resolve().parents[1]

LONG = ("notebook", "survival", "memory", "readme")
"""Words in the names of files whose few tests take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first: begun last, they would be waited for while the other processes have nothing left to do."""
    items.sort(key=lambda item: not any(word in item.path.name for word in LONG))


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Runs code in a fresh interpreter and gives back what it printed; with `fails`, its last words.

    `path` comes first on sys.path, and its first folder is the working directory.
    """

    def run(code: str, *, path: tuple[Path, ...] = (ROOT,), fails: bool = False) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=path[0], env=environment, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return (done.stderr if fails else done.stdout).strip()

    return run


@pytest.fixture(scope="session")
def browser() -> str:
    """Path of a Chromium; the test is skipped where there is none."""
    from interp.cli.env import find_browser

    found = find_browser()
    if found is None:
        pytest.skip("no Chromium: install one, or name it in BROWSER_PATH")
    return found
