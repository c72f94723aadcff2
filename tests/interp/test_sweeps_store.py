"""The folder of a sweep, with work that costs nothing: shards, faults at every call, what is left and what is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.circuits.runfolder import LOCK, MANIFEST, PLAN, UNFINISHED, RunFolder
from interp.kernels.errors import InterpError
from interp.sweeps.compute import Outcome, compute
from interp.sweeps.executors.inline import Inline
from interp.sweeps.run import run
from interp.sweeps.store import SweepFolder
from interp.sweeps.verify import verify
from tests.cases.table import TABLE, UNITS, Table, caught, finish, go, plan, rows


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


def test_a_plan_holds_what_is_asked_and_expected(tmp_path) -> None:
    SweepFolder.create(tmp_path / "run", plan(), request={"a": 1}, expected={"seconds": 2.5})
    back = SweepFolder.open(tmp_path / "run")
    assert (back.plan, back.request, back.expected) == (plan(), {"a": 1}, {"seconds": 2.5})
    assert replace(back, request=None) != back
