"""The folder of a sweep, with work that costs nothing: faults at every call, damage, locks, two processes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp.circuits.results import RunInfo
from interp.circuits.runfolder import LOCK, MANIFEST, PLAN, UNFINISHED, RunFolder
from interp.kernels.errors import InterpError
from interp.sweeps.compute import Outcome, compute
from interp.sweeps.executors.inline import Inline
from interp.sweeps.lock import locked
from interp.sweeps.plan import Plan
from interp.sweeps.run import resumable, run
from interp.sweeps.store import SweepFolder
from interp.sweeps.units import Unit, cut
from interp.sweeps.verify import verify
from interp.sweeps.work import Values

ROOT = Path(__file__).resolve().parents[2]
LABELS, PROMPTS = ("L0H0", "L0H1", "L1H0"), tuple("abcdefg")
TABLE = np.random.default_rng(1).normal(size=(3, 7))
UNITS = cut(7, 2, [0, 0, 1])
RUN = RunInfo(model={"name": "m"}, task={"name": "t"}, method={"kind": "k"})


class Table:
    """Work that looks its values up; `broken` units raise."""

    size = "a look"

    def __init__(self, broken: dict[int, Exception] | None = None) -> None:
        self.broken, self.asked = broken or {}, list[Unit]()

    def halve(self) -> bool:
        return False

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Values]]:
        for unit in units:
            self.asked.append(unit)
            if error := self.broken.get(UNITS.index(unit)):
                raise error
            yield unit, TABLE[unit.first : unit.last, unit.start : unit.stop].copy()


def plan(n_shards: int = 4, **config: Any) -> Plan:
    return Plan.make({"what": "test", **config}, UNITS, n_shards, LABELS, PROMPTS)


def finish(folder: SweepFolder, values: Values) -> None:
    writer = folder.writer()
    writer.write_rows("rows.parquet", pd.DataFrame({"value": values.ravel()}))
    writer.finish("test", RUN)


def go(path: Path, work: Table | None = None, *, n_shards: int = 4, overwrite: bool = False) -> None:
    """Start a run, or go on with the one that is there, to its end."""
    with resumable(path), locked(path):
        if (path / PLAN).is_file() and not overwrite:
            folder = SweepFolder.open(path)
        else:
            folder = SweepFolder.create(path, plan(n_shards), overwrite=overwrite)
        folder.write_job(b"job")
        finish(folder, run(folder, Inline(work or Table()))[0])


def rows(path: Path) -> bytes:
    assert verify(path).is_whole, verify(path)
    return (path / "rows.parquet").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    go(path)
    return rows(path)


def caught(call: Callable[[], Any]) -> InterpError:
    with pytest.raises(InterpError) as raised:
        call()
    return raised.value


@pytest.mark.parametrize("n_shards", [1, 2, 5, len(UNITS)])
def test_any_number_of_shards_gives_the_same_bytes(tmp_path, undisturbed, n_shards) -> None:
    go(tmp_path / "run", n_shards=n_shards)
    assert rows(tmp_path / "run") == undisturbed
    assert len(list((tmp_path / "run" / "parts").iterdir())) == n_shards
    folder = RunFolder.open(tmp_path / "run", "test")
    table = folder.read_rows("rows.parquet")["value"].to_numpy()
    np.testing.assert_array_equal(table, TABLE.ravel())
    assert {name.split("/")[0] for name in folder.manifest["files"]} == {PLAN, "parts", "tensors", "rows.parquet"}


def test_the_order_in_which_shards_end_plays_no_part(tmp_path, undisturbed) -> None:
    class Backwards(Inline):
        def map(self, shards: Any) -> Iterator[Outcome]:
            return super().map(list(shards)[::-1])

    folder = SweepFolder.create(tmp_path / "run", plan())
    folder.write_job(b"job")
    finish(folder, run(folder, Backwards(Table()))[0])
    assert rows(tmp_path / "run") == undisturbed


FAULTS = ("fsync", "replace", "open", "unlink", "mkdir", "scandir", "pwrite", "ftruncate")


class Faults:
    """Makes the k-th call of the file layer fail, as a disk does; `seen` counts the calls, `failed` says which it was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
        self.k, self.seen, self.failed = k, 0, ""
        for name in FAULTS:
            monkeypatch.setattr(os, name, self.failing(name, getattr(os, name)))
        monkeypatch.setattr("builtins.open", self.failing("open", open))

    def failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            self.seen += 1
            if self.seen == self.k:
                self.failed = name
                raise OSError(28, "No space left on device")
            return call(*arguments, **options)

        return run


def test_whatever_call_fails_the_run_can_be_resumed_to_the_same_bytes(tmp_path, undisturbed) -> None:
    """Every write, fsync and rename in turn, in a run and then again in the run that resumes it."""
    hit: dict[str, int] = {}
    for k in range(1, 1000):
        path = tmp_path / f"run-{k}"
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, k)
            try:
                go(path, n_shards=2)
                error = None
            except InterpError as raised:
                error = raised
        if not faults.failed:
            break
        hit[faults.failed] = hit.get(faults.failed, 0) + 1
        assert_old_or_new(path, error)
        go(path, n_shards=2)
        assert rows(path) == undisturbed
        assert not [*path.rglob("*.tmp"), *path.glob(UNFINISHED), *path.glob(LOCK)]
    assert error is None and rows(path) == undisturbed
    assert hit["fsync"] >= 12 and hit["replace"] >= 6 and hit["open"] >= 12, hit


def assert_old_or_new(path: Path, error: InterpError | None) -> None:
    """A folder in which a call failed never passes for a whole run, and the error says what to type."""
    if error is None:  # a failure on the way out: the run was whole already
        assert verify(path).is_whole
        return
    assert (error.code, error.exit_code) == ("E602", 6)
    assert f"interp resume {path}" in error.fix
    if (path / PLAN).is_file() and not (path / MANIFEST).is_file():
        check = verify(path)
        assert not check.finished and not [one for one in check.problems if one.file.startswith("parts/")]


def test_what_is_stored_is_not_computed_again(tmp_path) -> None:
    broken = Table({5: KeyboardInterrupt()})  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", broken)
    second = Table()
    go(tmp_path / "run", second)
    stored = [shard for shard in plan().shards if UNITS[5] not in shard.units][:2]
    assert not {unit for shard in stored for unit in shard.units} & set(second.asked)
    assert UNITS[5] in second.asked


def test_an_error_of_the_data_leaves_the_other_shards_alone(tmp_path, undisturbed) -> None:
    wrong = InterpError("E404", "the hook did not fire", where="L1", fix="look")
    error = caught(lambda: go(tmp_path / "run", Table({3: wrong, 6: ZeroDivisionError("by zero")})))
    assert (error.code, error.exit_code) == ("E502", 5)
    assert "2 of 4 shards" in error.what and "INTERP-E404" in error.what and "interp resume" in error.fix
    folder = SweepFolder.open(tmp_path / "run")
    failures = list(folder.failures().values())
    assert [one["code"] for one in failures] == ["E404", ""]
    assert "ZeroDivisionError" in failures[1]["trace"] and failures[0]["where"] == "L1"
    check = verify(tmp_path / "run")
    assert len(check.failed) == len(check.missing) == 2 and not check.problems
    go(tmp_path / "run")
    assert rows(tmp_path / "run") == undisturbed
    assert not list((tmp_path / "run" / "failed").iterdir())


def test_a_hopeless_run_stops_early(tmp_path) -> None:
    work = Table(dict.fromkeys(range(len(UNITS)), InterpError("E404", "no")))
    assert "8 of 8 shards have no values; 3 failed" in caught(lambda: go(tmp_path / "run", work, n_shards=8)).what
    assert len(work.asked) == 3


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_verify_names_the_damaged_file_and_resume_computes_that_shard_alone(tmp_path, undisturbed) -> None:
    path = tmp_path / "run"
    go(path)
    names = sorted(RunFolder.open(path).manifest["files"])
    for name in [*names, MANIFEST]:
        before = (path / name).read_bytes()
        damage(path / name)
        check = verify(path)
        assert [problem.file for problem in check.problems] == [name], check.problems
        assert caught(lambda: RunFolder.open(path)).code == "E701"
        if name == PLAN:
            assert caught(lambda: SweepFolder.open(path)).code == "E701"
            (path / name).write_bytes(before)
            continue
        work = Table()
        go(path, work)
        assert rows(path) == undisturbed
        computed = [shard for shard in plan().shards if f"parts/{shard.key}.parquet" == name]
        assert work.asked == [unit for shard in computed for unit in shard.units]


def test_verify_of_an_unfinished_run_finds_damage_too(tmp_path, undisturbed) -> None:
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        go(path, Table({5: KeyboardInterrupt()}))  # type: ignore[dict-item]
    whole = verify(path)
    assert not whole.finished and not whole.problems and len(whole.missing) == 2
    part = next((path / "parts").iterdir())
    for place in range(0, part.stat().st_size, 97):
        before = part.read_bytes()
        part.write_bytes(before[:place] + bytes([before[place] ^ 0x10]) + before[place + 1 :])
        assert not verify(path).problems or [one.file for one in verify(path).problems] == [f"parts/{part.name}"]
        changed = part.read_bytes()
        part.write_bytes(before)
        assert changed != before
    part.write_bytes(part.read_bytes()[:-20])
    assert [problem.file for problem in verify(path).problems] == [f"parts/{part.name}"]
    go(path)
    assert rows(path) == undisturbed


def test_a_changed_value_is_found_whatever_byte_it_came_from(tmp_path) -> None:
    """Any flipped bit of a part is either found or changes nothing that is read."""
    folder = SweepFolder.create(tmp_path / "run", plan())
    shard = folder.plan.shards[0]
    folder.record(compute(Table(), shard))
    path = tmp_path / "run" / folder.part_name(shard)
    data, true = path.read_bytes(), folder.read(shard)
    found = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            part = folder.read(shard)
        except InterpError as error:
            assert error.code == "E701" and path.name in error.what
            found += 1
        else:
            assert part.about == true.about
            assert all(np.array_equal(one, other) for one, other in zip(part.values, true.values, strict=True))
    assert found > len(data) / 7 / 3


def test_a_table_that_does_not_fit_the_shards_is_found(tmp_path) -> None:
    go(tmp_path / "run")
    folder = SweepFolder.open(tmp_path / "run")
    finish(folder, TABLE + 1)
    assert [problem.file for problem in verify(tmp_path / "run").problems] == ["rows.parquet"]


def test_a_strange_part_is_named(tmp_path) -> None:
    go(tmp_path / "run")
    (tmp_path / "run" / "parts" / "0123.parquet").write_bytes(b"x")
    assert [problem.file for problem in verify(tmp_path / "run").problems] == ["parts/0123.parquet"]


def test_a_part_of_another_run_is_refused(tmp_path) -> None:
    folder = SweepFolder.create(tmp_path / "run", plan())
    other = SweepFolder.create(tmp_path / "other", plan(seed=2))
    for one in (folder, other):
        one.record(compute(Table(), one.plan.shards[0]))
    (part,) = (tmp_path / "other" / "parts").iterdir()
    shard = folder.plan.shards[0]
    (tmp_path / "run" / folder.part_name(shard)).write_bytes(part.read_bytes())
    assert "another shard" in caught(lambda: folder.read(shard)).what


def test_what_a_crash_left_half_written_is_removed(tmp_path, undisturbed) -> None:
    folder = SweepFolder.create(tmp_path / "run", plan())
    folder.record(compute(Table(), folder.plan.shards[0]))
    left = [tmp_path / "run" / ".rows.parquet.99.tmp", tmp_path / "run" / "parts" / ".x.parquet.99.tmp"]
    for path in left:
        path.write_bytes(b"half")
    go(tmp_path / "run")
    assert rows(tmp_path / "run") == undisturbed and not any(path.exists() for path in left)


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path) -> None:
    path = tmp_path / "run"
    go(path, n_shards=8)
    assert caught(lambda: RunFolder.check(path)).code == "E204"
    go(path, n_shards=2, overwrite=True)
    assert len(list((path / "parts").iterdir())) == 2 and verify(path).is_whole


def test_an_interrupted_run_is_named_with_what_to_type(tmp_path) -> None:
    SweepFolder.create(tmp_path / "run", plan())
    for refuse in (lambda: RunFolder.check(tmp_path / "run"), lambda: RunFolder.open(tmp_path / "run")):
        assert f"interp resume {tmp_path / 'run'}" in caught(refuse).fix


def test_a_run_that_ended_before_its_plan_holds_nothing_and_can_be_started(tmp_path, undisturbed) -> None:
    RunFolder.create(tmp_path / "run")
    assert caught(lambda: SweepFolder.open(tmp_path / "run")).code == "E204"
    RunFolder.check(tmp_path / "run")
    go(tmp_path / "run")
    assert rows(tmp_path / "run") == undisturbed


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
import importlib.util
spec = importlib.util.spec_from_file_location("store_test", sys.argv[1])
store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(store)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    store.go(Path(sys.argv[2]))
except store.InterpError as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX feature")
def test_a_full_disk_ends_with_exit_code_6_and_no_half_file(tmp_path, undisturbed) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, __file__, str(tmp_path / "run"), "2500"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert (tmp_path / "run" / PLAN).is_file() and not list((tmp_path / "run").rglob("*.tmp"))
    assert not verify(tmp_path / "run").problems
    go(tmp_path / "run")
    assert rows(tmp_path / "run") == undisturbed


def test_a_plan_holds_what_is_asked_and_expected(tmp_path) -> None:
    SweepFolder.create(tmp_path / "run", plan(), request={"a": 1}, expected={"seconds": 2.5})
    back = SweepFolder.open(tmp_path / "run")
    assert (back.plan, back.request, back.expected) == (plan(), {"a": 1}, {"seconds": 2.5})
    assert replace(back, request=None) != back
