"""Ray on this machine: the bytes of an inline run, also when actors are killed. Skipped where Ray is not installed."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import interp
from interp.kernels.errors import InterpError
from interp.sweeps.compute import Outcome
from interp.sweeps.executors.base import Execution
from interp.sweeps.store import SweepFolder
from interp.sweeps.verify import verify

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed: pip install "interp[ray]"')
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="actors are found in /proc")
ASKED = {"heads": ["L0H0", "L1H2"], "n_controls": 0, "batch_size": 1, "operator": "mean"}


def actors() -> list[int]:
    """Processes of this machine that are our actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::Worker"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def rows(path: Path) -> bytes:
    assert verify(path).is_whole
    return (path / "rows.parquet").read_bytes()


@needs_ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves pipes of its own processes open
def test_a_local_cluster_gives_the_bytes_of_an_inline_run_within_a_minute(cli, tmp_path) -> None:
    words = ("ablate", "-M", "planted-induction", "-t", "induction", "--n", "12", "-b", "2", "--controls", "1", "-q")
    assert cli(*words, "-o", "inline").code == 0
    started = time.monotonic()
    said = cli(*words, "-o", "cluster", "--executor", "ray", "--workers", "2", "--shards", "6")
    seconds = time.monotonic() - started
    assert said.code == 0, said.err
    assert rows(tmp_path / "inline") == rows(tmp_path / "cluster")
    assert seconds < 60, f"{seconds:.0f} s"


LISTENING = """
from pathlib import Path
from interp.sweeps.executors.ray import connect
def sockets():
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    return {line.split()[1] for table in tables for line in table if line.split()[3] == "0A"}
before = sockets()
ray, is_ours = connect(1, None)
assert is_ours
print(*sorted(sockets() - before))
ray.shutdown()
"""


@needs_ray
@needs_proc
def test_a_cluster_of_ours_listens_on_this_machine_alone(python) -> None:
    opened = python(LISTENING).split()
    assert opened, "nothing listens: the test looks at the wrong place"
    loopback = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")
    assert all(one.startswith(loopback) for one in opened), opened


@needs_ray
@needs_proc
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_actors_that_are_killed_twenty_times_are_replaced(tmp_path, monkeypatch) -> None:
    model, task = interp.load("planted-induction"), interp.task("induction", n=100)
    interp.ablate(model, task, out=tmp_path / "inline", **ASKED)
    killed: list[int] = []
    draw = random.Random(0)
    ended = threading.Event()

    def haunt() -> None:
        while len(killed) < 20 and not ended.is_set():
            time.sleep(draw.uniform(2, 9))
            alive = [pid for pid in actors() if pid not in killed]
            if alive:
                killed.append(draw.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)

    before = SweepFolder.record

    def record(self: SweepFolder, outcome: Outcome) -> None:
        time.sleep(0.9)
        before(self, outcome)

    monkeypatch.setattr(SweepFolder, "record", record)
    threading.Thread(target=haunt, daemon=True).start()
    found = interp.ablate(model, task, out=tmp_path / "cluster", executor="ray", workers=2, shards=200, **ASKED)
    ended.set()
    print(f"{len(killed)} kills, {found.sweep['actual']}")
    assert len(killed) == 20 and rows(tmp_path / "inline") == rows(tmp_path / "cluster")


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_no_cluster_at_an_address(tmp_path, address) -> None:
    with pytest.raises(InterpError) as caught:
        interp.ablate(
            interp.load("planted-induction"),
            interp.task("induction", n=4),
            out=tmp_path / "run",
            executor="ray",
            address=address,
            **ASKED,
        )
    assert caught.value.code == "E605" and "ray start" in caught.value.fix


def test_without_ray_the_message_says_how_to_install_it(monkeypatch) -> None:
    from interp.sweeps.executors.ray import connect

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InterpError, match="not installed") as caught:
        connect(2, None)
    assert caught.value.code == "E601" and "interp[ray]" in caught.value.fix


def test_ray_is_imported_only_when_it_is_asked_for(python) -> None:
    code = "import sys, interp.sweeps.executors.ray, interp.cli.main; print('ray' in sys.modules)"
    assert python(code) == "False"
    assert Execution(executor="ray", workers=2, address="auto").address == "auto"
