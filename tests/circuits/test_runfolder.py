"""A run folder opens whole and unchanged, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.circuits.files import digest, encode_json
from interp.circuits.results import RunInfo
from interp.circuits.runfolder import MANIFEST, RunFolder
from interp.kernels.errors import InterpError

RUN = RunInfo(model={"name": "m"}, task={"name": "t"}, method={"kind": "k"}, certificate={"kl": float("nan")})


def write(folder: Path, *, scale: float = 1.0, overwrite: bool = False) -> RunFolder:
    """A run of four small files."""
    writer = RunFolder.create(folder, overwrite=overwrite)
    writer.write_json("notes.json", {"scale": scale, "missing": float("inf")})
    writer.write_lines("prompts.jsonl", [{"id": "a", "tokens": ("x\n", "\u2028")}, {"id": "b", "tokens": []}])
    writer.write_rows("rows.parquet", pd.DataFrame({"value": [scale, np.nan], "label": ["L0H0", "L0H1"]}))
    tensors = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.full(2, scale)}
    writer.write_tensors("patterns.safetensors", tensors, {"axes": "head pos", "run_id": "0"})
    return writer.finish("test", RUN, extra=[1, 2])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(InterpError) as caught:
        call()
    return caught.value.code


def test_everything_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run", "test")
    assert run.manifest["extra"] == [1, 2]
    assert run.read_json("notes.json") == {"scale": 1.0, "missing": float("inf")}
    assert run.read_lines("prompts.jsonl") == [{"id": "a", "tokens": ["x\n", "\u2028"]}, {"id": "b", "tokens": []}]
    table = run.read_rows("rows.parquet")
    np.testing.assert_array_equal(table["value"].to_numpy(), [1.0, np.nan])
    assert table["value"].null_count == 1
    np.testing.assert_array_equal(run.read_tensors("patterns.safetensors")["b"], [[0, 1, 2], [3, 4, 5]])
    assert np.isnan(run.run.certificate["kl"])
    assert run.run.model == RUN.model


def test_two_saves_are_byte_identical(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert sorted(content(tmp_path / "one")) == sorted(
        [MANIFEST, "notes.json", "prompts.jsonl", "rows.parquet", "patterns.safetensors"]
    )


def test_any_changed_byte_is_found_and_its_file_named(tmp_path: Path) -> None:
    write(tmp_path / "run")
    for name, data in content(tmp_path / "run").items():
        for place in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            (tmp_path / "run" / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(InterpError) as caught:
                RunFolder.open(tmp_path / "run")
            assert caught.value.code == "E701"
            assert name in caught.value.what
        (tmp_path / "run" / name).write_bytes(data)
    RunFolder.open(tmp_path / "run")


def test_a_missing_cut_or_swapped_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "run")
    rows = tmp_path / "run" / "rows.parquet"
    data = rows.read_bytes()
    for change in (rows.unlink, lambda: rows.write_bytes(data[:-1]), lambda: rows.write_bytes(b"")):
        change()
        with pytest.raises(InterpError, match=r"rows\.parquet") as caught:
            RunFolder.open(tmp_path / "run")
        assert caught.value.code == "E701"


def rewritten(folder: Path, **change: Any) -> None:
    """A manifest with other content and a digest that fits it."""
    data = json.loads((folder / MANIFEST).read_text())
    flags = data.pop("not_finite")
    assert flags == [[["run", "certificate", "kl"], "nan"]]
    data["run"]["certificate"]["kl"] = float("nan")
    body = {**{key: value for key, value in data.items() if key != "digest"}, **change}
    (folder / MANIFEST).write_bytes(encode_json({**body, "digest": digest(encode_json(body))}))


def test_unknown_schema_or_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "run")
    rewritten(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").manifest["kind"] == "test"
    assert code(lambda: RunFolder.open(tmp_path / "run", "ablation")) == "E702"
    rewritten(tmp_path / "run", schema=99)
    assert code(lambda: RunFolder.open(tmp_path / "run")) == "E702"


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    write(tmp_path / "run")
    rewritten(tmp_path / "run", files={"../secret": {"sha256": digest(b"x"), "bytes": 1}})
    assert code(lambda: RunFolder.open(tmp_path / "run")) == "E204"


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        assert code(partial(RunFolder.open, folder)) == "E204"
    RunFolder.create(tmp_path / "run").write_json("notes.json", {})
    with pytest.raises(InterpError, match="interrupted run") as caught:
        RunFolder.open(tmp_path / "run")
    assert caught.value.code == "E204"


def test_a_run_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("of the old run")
    before = content(tmp_path / "run")
    assert code(lambda: RunFolder.create(tmp_path / "run")) == "E204"
    assert content(tmp_path / "run") == before
    assert write(tmp_path / "run", scale=2.0, overwrite=True).read_json("notes.json")["scale"] == 2
    assert not (tmp_path / "run" / "report.html").exists()


def test_an_interrupted_run_is_replaced_only_when_asked(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").write_json("notes.json", {})
    with pytest.raises(InterpError, match="interrupted run"):
        RunFolder.create(tmp_path / "run")
    write(tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_the_user_are_never_written_over(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "prompts.jsonl").write_text("mine")
    with pytest.raises(InterpError, match=r"prompts\.jsonl") as caught:
        RunFolder.create(tmp_path, overwrite=overwrite)
    assert caught.value.code == "E204"
    assert code(lambda: RunFolder.create(tmp_path / "prompts.jsonl", overwrite=overwrite)) == "E204"
    assert content(tmp_path) == {"prompts.jsonl": b"mine"}


class Faults:
    """Makes the k-th call of the file layer fail; `seen` counts the calls."""

    NAMES = ("fsync", "replace", "open", "unlink", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
        self.k, self.seen = k, 0
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))
        monkeypatch.setattr("builtins.open", self.failing(open))

    def failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            self.seen += 1
            if self.seen == self.k:
                raise OSError(5, "Input/output error")
            return call(*args, **options)

        return run


@pytest.mark.parametrize("overwrite", [False, True])
def test_whatever_fails_the_folder_is_the_old_run_the_new_run_or_no_run(tmp_path: Path, overwrite: bool) -> None:
    write(tmp_path / "old", scale=1.0)
    write(tmp_path / "new", scale=2.0)
    whole = [content(tmp_path / "new"), content(tmp_path / "old")]
    for k in range(1, 200):
        folder = tmp_path / f"run-{k}"
        if overwrite:
            write(folder, scale=1.0)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, k)
            try:
                write(folder, scale=2.0, overwrite=overwrite)
                error = None
            except InterpError as raised:
                error = raised
        if faults.seen < k:
            assert error is None
            break
        assert_whole_or_refused(folder, whole, error)
        assert not list(folder.glob("*.tmp")) if folder.exists() else True
    assert k > 20, "the file layer was called so seldom that the faults cannot have reached it"
    assert content(folder) == whole[0]


def assert_whole_or_refused(folder: Path, whole: list[dict[str, bytes]], error: InterpError | None) -> None:
    """A run that opens is one of the two whole ones; a write that failed said so with exit code 6."""
    assert error is None or error.code == "E602"
    try:
        run = RunFolder.open(folder)
    except InterpError as refused:
        assert refused.code in ("E204", "E701")
        assert error is not None
    else:
        listed = {name: (folder / name).read_bytes() for name in [*run.manifest["files"], MANIFEST]}
        assert listed in whole
