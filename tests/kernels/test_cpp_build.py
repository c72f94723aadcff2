"""The native kernel's library: built on demand, once, whole, and with a clear word where that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from interp.kernels.backends.cpp import build, kernel
from interp.kernels.backends.primitives import Request, Rows
from interp.kernels.errors import InterpError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def request_of_one() -> Request:
    """A query and the key that it sees."""
    x, i = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, dtype=torch.int32)
    return Request(x, x, x, 1.0, Rows(i, i + 1, i, i))


def test_without_a_compiler_the_error_says_what_to_install(python: Callable[..., str], tmp_path: Path) -> None:
    code = f"""
import os, torch
os.environ.update(PATH="", CXX="", INTERP_CACHE={str(tmp_path)!r})
from interp.kernels.backends.cpp import build, kernel
from interp.kernels.backends.primitives import Request, Rows
x, i = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, dtype=torch.int32)
request = Request(x, x, x, 1.0, Rows(i, i + 1, i, i))
assert kernel.supports(request) == 'no C++ compiler found (g++ or $CXX)'
assert not build.built() and build.seconds is None
kernel.run(request)
"""
    said = python(code, fails=True)
    assert "INTERP-E601: no C++ compiler found (g++ or $CXX)" in said and "fix:   install g++" in said


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a compiler that copies the real library and leaves a line in `log` each time."""
    if build.compiler() is None and not build.built():
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    build.library()
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\nfor out; do :; done\necho built >> {tmp_path}/log\ncp {build.path()} "$out"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    build.library.cache_clear()
    yield tmp_path
    build.library.cache_clear()


def test_library_is_built_once_and_again_when_damaged(fresh: Path, request_of_one: Request) -> None:
    assert not build.built()
    kernel.run(request_of_one)
    assert build.built() and build.seconds is not None and build.seconds > 0
    build.library.cache_clear()
    kernel.run(request_of_one)
    assert (fresh / "log").read_text() == "built\n"
    whole = build.path().read_bytes()
    build.path().unlink()  # a new file: the old one is mapped into this process
    build.path().write_bytes(whole[: len(whole) // 2])
    assert not build.built()
    build.library.cache_clear()
    kernel.run(request_of_one)
    assert build.built() and (fresh / "log").read_text() == "built\nbuilt\n"
    assert [x.name for x in build.folder().iterdir()] == [build.path().name]


def test_two_processes_may_build_at_once(fresh: Path) -> None:
    code = "from interp.kernels.backends.cpp import build; print(build.library().interp_job_size())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pair = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in pair]
    assert said[0] == said[1] and said[0].strip().isdigit() and all(process.returncode == 0 for process in pair)
    assert build.built() and [x.name for x in build.folder().iterdir()] == [build.path().name]


def test_compiler_that_fails_is_quoted(fresh: Path, request_of_one: Request) -> None:
    (fresh / "compiler").write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    with pytest.raises(InterpError, match="no such option") as caught:
        build.library()
    assert caught.value.code == "E601" and not build.built() and not any(build.folder().iterdir())
    assert "no such option" in str(kernel.supports(request_of_one))


def test_cache_that_cannot_be_written_is_named(fresh: Path) -> None:
    (fresh / "cache").write_text("a file where the folder should be")
    with pytest.raises(InterpError, match="cannot be kept") as caught:
        build.library()
    assert caught.value.code == "E602" and "INTERP_CACHE" in caught.value.fix


def test_compiler_named_in_the_environment_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{shutil.which('sh')} -e")
    assert build.compiler() == (shutil.which("sh"), "-e")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert build.compiler() != ("/no/such/compiler",)
