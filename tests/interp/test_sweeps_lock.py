"""Two processes on one folder, locks, and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from interp.circuits.runfolder import LOCK, PLAN
from interp.kernels.errors import InterpError
from interp.sweeps.lock import locked
from interp.sweeps.units import Unit
from interp.sweeps.work import Values
from tests.cases.table import Table, caught, go, rows

ROOT = Path(__file__).resolve().parents[2]

HOLDER = """
import sys, time
from pathlib import Path
from interp.sweeps.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `run`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_two_processes_on_one_folder(tmp_path, holder, undisturbed) -> None:
    error = caught(lambda: go(tmp_path / "run"))
    assert (error.code, error.exit_code) == ("E604", 6)
    assert f"process {holder.pid} on {os.uname().nodename} since 20" in error.what
    assert not (tmp_path / "run" / PLAN).exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == holder.pid  # stale, and seen to be
    go(tmp_path / "run")
    assert rows(tmp_path / "run") == undisturbed


def test_a_lock_of_another_machine_is_respected(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text('{"pid": 1, "host": "elsewhere", "started": "2026-01-01"}')
    error = caught(lambda: go(tmp_path / "run"))
    assert error.code == "E604" and "elsewhere" in error.what and "remove .lock" in error.fix


def test_many_takers_and_one_lock(tmp_path) -> None:
    """Threads hold file descriptors of their own, so the lock keeps them apart as it does processes."""
    inside, most, refused = 0, 0, 0
    guard = threading.Lock()

    def take() -> None:
        nonlocal inside, most, refused
        for _ in range(20):
            try:
                with locked(tmp_path):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.001)
                    with guard:
                        inside -= 1
            except InterpError:
                with guard:
                    refused += 1

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and refused > 0 and not (tmp_path / LOCK).exists()


def test_sigterm_ends_like_ctrl_c_and_the_run_can_be_resumed(tmp_path, undisturbed) -> None:
    class Killed(Table):
        def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Values]]:
            if len(self.asked) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().run(units)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", Killed(), n_shards=8)
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 3
    go(tmp_path / "run")
    assert rows(tmp_path / "run") == undisturbed
