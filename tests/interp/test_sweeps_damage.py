"""Damage in the folder of a sweep is found, named and mended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from interp.circuits.runfolder import MANIFEST, PLAN, RunFolder
from interp.kernels.errors import InterpError
from interp.sweeps.compute import compute
from interp.sweeps.store import SweepFolder
from interp.sweeps.verify import verify
from tests.cases.table import TABLE, Table, caught, finish, go, plan, rows


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
