"""The compiled library: which compiler and flags, where it is kept, and how it is made on first use.

The sources need no header but the compiler's own, so that a build takes seconds and outlives any version of torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

import torch

from interp.kernels.errors import InterpError

seconds: float | None = None
"""How long the build took; None where this process built nothing."""

SOURCES = ("rows.cpp", "columns.cpp")
HEADERS = ("vector.h", "job.h", "product.h", "scores.h", "online.h")
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
FIX = "install g++ (Debian, Ubuntu: apt install g++), or name a compiler in CXX; backend='blockwise' needs none"

_HERE = Path(__file__).parent
_DIGEST = hashlib.sha256().digest_size
_LOCK = threading.Lock()


def compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler: `$CXX`, else g++, c++ or clang++, whichever is found; None without one."""
    for candidate in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        words = shlex.split(candidate)
        if words and shutil.which(words[0]):
            return tuple(words)
    return None


def flags() -> tuple[str, ...]:
    """Options of the compiler; the instruction set is the one that torch uses on this machine."""
    instructions = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())
    return ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", *instructions)


def folder() -> Path:
    """Where compiled libraries are kept: `$INTERP_CACHE`, or `~/.cache/interp`."""
    return Path(os.environ.get("INTERP_CACHE") or Path.home() / ".cache" / "interp") / "cpp"


def path() -> Path:
    """The file of the library, named by everything that decides its content but the compiler."""
    key = hashlib.sha256(" ".join((*flags(), platform.machine())).encode())
    for name in (*SOURCES, *HEADERS):
        key.update((_HERE / name).read_bytes())
    return folder() / f"attention-{key.hexdigest()[:20]}.so"


def built() -> bool:
    """Whether the next call finds a library that is whole, so that it need not wait for a build."""
    return _whole(path())


@cache
def library() -> ctypes.CDLL:
    """The library, built first where it is missing or damaged; loaded once a process.

    Raises:
        InterpError: E601, no compiler or one that fails; E602, the cache cannot be written.
    """
    global seconds
    file = path()
    with _LOCK:
        if not _whole(file):
            start = time.perf_counter()
            _build(file)
            seconds = time.perf_counter() - start
        return ctypes.CDLL(str(file))


def _whole(file: Path) -> bool:
    """Whether the file ends with the digest of what stands before it (a loader ignores what follows its sections)."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def _build(file: Path) -> None:
    """Compiles into a folder of its own and moves the result into place: whoever comes second replaces it by its like."""
    command = compiler()
    if command is None:
        raise InterpError("E601", "no C++ compiler found (g++ or $CXX)", where="the cpp attention kernel", fix=FIX)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as made:
            fresh = Path(made) / file.name
            _compile([*command, *flags(), *(str(_HERE / name) for name in SOURCES), "-o", str(fresh)])
            with fresh.open("ab") as end:
                end.write(hashlib.sha256(fresh.read_bytes()).digest())
            fresh.replace(file)
    except OSError as error:
        fix = "make room, or name another folder in INTERP_CACHE"
        raise InterpError("E602", f"the compiled kernel cannot be kept: {error}", where=str(file), fix=fix) from error


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[:5])
        raise InterpError("E601", f"the C++ compiler failed: {said}", where=shlex.join(command), fix=FIX)
