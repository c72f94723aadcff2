"""The lock of a run folder: one process works on it, and everybody else is told which."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.circuits.files import not_written
from interp.circuits.runfolder import LOCK
from interp.kernels.errors import InterpError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there.

    The system drops the lock of a process that dies, so the lock of a dead process on this machine is stale by itself.
    What a dead process of another machine left cannot be told from a living one, and is refused.

    Raises:
        InterpError: E604 another process works on the folder; E602 the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as error:
        raise not_written(path, error) from error
    try:
        yield
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file, and write who holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _try_lock(descriptor):
                raise _taken(path, owner(path))
            if not _is_same_file(descriptor, path):  # its holder removed it in the meantime
                os.close(descriptor)
                continue
            before = owner(path)
            if before.get("host") not in (None, platform.node()):
                raise _taken(path, before)
            me = {"pid": os.getpid(), "host": platform.node(), "started": _now()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(me).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _try_lock(descriptor: int) -> bool:
    """Lock an open file without waiting; False where another process holds it."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def owner(path: Path) -> dict[str, Any]:
    """Who wrote a lock file; empty where it does not say."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _taken(path: Path, who: dict[str, Any]) -> InterpError:
    about = f"process {who.get('pid', '?')} on {who.get('host', '?')} since {who.get('started', '?')}"
    elsewhere = who.get("host") not in (None, platform.node())
    fix = (
        f"if that process is gone, which cannot be seen from here, remove {LOCK}"
        if elsewhere
        else "wait until it is done"
    )
    return InterpError("E604", f"another process works on this run: {about}", where=str(path.parent), fix=fix)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
