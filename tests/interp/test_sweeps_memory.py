"""Too little memory, and too little disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from interp.circuits.runfolder import PLAN
from interp.sweeps.compute import compute
from interp.sweeps.executors.inline import Inline
from interp.sweeps.run import run
from interp.sweeps.store import SweepFolder
from interp.sweeps.units import Unit
from interp.sweeps.verify import verify
from interp.sweeps.work import Values
from tests.cases.table import Table, finish, go, plan, rows

ROOT = Path(__file__).resolve().parents[2]


class Scarce(Table):
    """Memory is enough for `room` prompts at once."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.rows, self.room, self.error = 8, room, error

    @property
    def size(self) -> str:  # type: ignore[override]
        return f"{self.rows} prompts a forward"

    def halve(self) -> bool:
        self.rows, before = max(1, self.rows // 2), self.rows
        return self.rows < before

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Values]]:
        if self.rows > self.room:
            raise self.error
        return super().run(units)


MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_memory_errors_halve_what_is_held_and_are_recorded(tmp_path, undisturbed, error) -> None:
    folder = SweepFolder.create(tmp_path / "run", plan())
    folder.write_job(b"job")
    values, actual = run(folder, Inline(Scarce(2, error)))
    finish(folder, values)
    assert actual.halvings == 2 and rows(tmp_path / "run") == undisturbed


def test_memory_that_is_never_enough_fails_with_the_size_that_was_needed(tmp_path) -> None:
    outcome = compute(Scarce(0, MemoryError("need 3 GB")), plan().shards[1])
    assert outcome.failure is not None and outcome.failure.code == "E603"
    assert "1 prompts a forward" in outcome.failure.what and "need 3 GB" in outcome.failure.what
    assert outcome.failure.where.startswith("prompts ")


def test_other_errors_of_torch_are_no_memory_errors() -> None:
    outcome = compute(Table({0: RuntimeError("shapes do not match")}), plan().shards[0])
    assert outcome.failure is not None and outcome.failure.code == "" and "shapes" in outcome.failure.what


LIMITED = """
import resource, sys
from pathlib import Path
from interp.kernels.errors import InterpError
from tests.cases.table import go
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    go(Path(sys.argv[1]))
except InterpError as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX feature")
def test_a_full_disk_ends_with_exit_code_6_and_no_half_file(tmp_path, undisturbed) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "run"), "2500"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert (tmp_path / "run" / PLAN).is_file() and not list((tmp_path / "run").rglob("*.tmp"))
    assert not verify(tmp_path / "run").problems
    go(tmp_path / "run")
    assert rows(tmp_path / "run") == undisturbed
