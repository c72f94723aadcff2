"""Names that are safe everywhere, writes that are whole or absent, and JSON with one form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from interp.circuits.files import decode_json, encode_json, inside, run_id, safe_slug, write_atomic
from interp.kernels.errors import InterpError

UNSAFE = [
    "", ".", "..", "../../x", "a/b", "a\\b", "/etc/passwd", "C:\\x", "a\0b", "a b", "a..b", ".hidden", "trailing.", "é",
    "CON", "con", "nul.txt", "COM1", "lpt9.json", "x" * 101, "line\n", "$(x)",
]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_unsafe_names_are_refused(name: str, tmp_path: Path) -> None:
    for refuse in (safe_slug, lambda name: inside(tmp_path, name)):
        with pytest.raises(InterpError) as caught:
            refuse(name)
        assert caught.value.code == "E204"


@pytest.mark.parametrize("name", ["a", "run-1", "ioi_mean.v2", "x" * 100, "CONSOLE", "a.con", "-"])
def test_safe_names_pass(name: str, tmp_path: Path) -> None:
    assert safe_slug(name) == name
    assert inside(tmp_path, name) == tmp_path / name


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "rows.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InterpError, match="leads out"):
        inside(tmp_path / "root", "rows.parquet")


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    for data in (b"old", b"new and longer", b""):
        assert write_atomic(tmp_path / "x", data).read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "x", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InterpError) as caught:
        write_atomic(tmp_path / "x", b"new")
    assert (caught.value.code, caught.value.exit_code) == ("E602", 6)
    assert "No space left on device" in str(caught.value)
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


LIMITED = """
import resource, sys
from interp.circuits.files import write_atomic
from interp.kernels.errors import InterpError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomic(sys.argv[1], b"x" * 100_000)
except InterpError as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX feature")
def test_a_real_size_limit_ends_with_exit_code_6_and_no_half_file(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "x")], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux offers a device that is always full")
def test_a_full_device_gives_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: "full")
    (tmp_path / ".x.full.tmp").symlink_to("/dev/full")
    with pytest.raises(InterpError) as caught:
        write_atomic(tmp_path / "x", b"x" * 10)
    assert caught.value.code == "E602"
    assert list(tmp_path.iterdir()) == []


def test_json_never_holds_nan_and_gives_it_back() -> None:
    data = {"a": float("nan"), "b": [1, {"c": float("-inf")}], "d/e": float("inf"), "f": None, "g": 0.1}
    raw = encode_json(data)
    strict = json.loads(raw, parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    assert strict["a"] is None
    assert strict["b"][1]["c"] is None
    assert strict["not_finite"] == [[["a"], "nan"], [["b", 1, "c"], "-inf"], [["d/e"], "inf"]]
    back = decode_json(raw)
    assert np.isnan(back.pop("a"))
    assert back == {"b": [1, {"c": float("-inf")}], "d/e": float("inf"), "f": None, "g": 0.1}


def test_json_has_one_form() -> None:
    assert encode_json({"b": (1, 2), "a": np.float64(0.5)}) == encode_json({"a": 0.5, "b": [np.int64(1), 2]})
    for raw in (b'{"a":1}', b"[]", b"", b"\xff", encode_json({"a": 1}) + b" "):
        with pytest.raises(ValueError):
            decode_json(raw)


def test_what_was_read_again_is_written_as_the_same_bytes() -> None:
    """Missing numbers in names out of order, which a file holds in order."""
    data = {"z": float("nan"), "a": {"d": float("inf"), "b": [1.0, float("nan")]}}
    written = encode_json(data)
    assert encode_json(decode_json(written)) == written == encode_json(dict(reversed(data.items())))


def test_text_of_any_kind_survives() -> None:
    data = {"tokens": ["\u2028", "\ud800", "\x00", "</script>", "שלום", "\N{ROBOT FACE}"]}
    assert decode_json(encode_json(data)) == data


def test_run_id_depends_on_what_was_asked_and_not_on_its_order() -> None:
    first = run_id({"model": {"sha256": "a"}, "seeds": {"task": 0}})
    assert first == run_id({"seeds": {"task": 0}, "model": {"sha256": "a"}})
    assert first != run_id({"model": {"sha256": "a"}, "seeds": {"task": 1}})
    assert len(first) == 12
