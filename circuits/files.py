"""Files: safe names, writes that are whole or absent, and JSON that has one form."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.kernels.errors import InterpError

SLUG = re.compile(r"[A-Za-z0-9._-]{1,100}")
SUBFOLDERS = ("parts", "failed", "tensors")
"""The only folders inside a run folder."""

DEVICE_NAMES = frozenset(["CON", "PRN", "AUX", "NUL", *(f"{kind}{n}" for kind in ("COM", "LPT") for n in range(1, 10))])


def safe_slug(name: str) -> str:
    """The name itself, where it is safe as a file or folder name on every system.

    Raises:
        InterpError: E204 where it is not.
    """
    bare = name.split(".", 1)[0].upper()
    if not SLUG.fullmatch(name) or name[0] == "." or name[-1] == "." or ".." in name or bare in DEVICE_NAMES:
        raise InterpError(
            "E204",
            f"{name[:120]!r} cannot be a file name",
            fix="use 1 to 100 letters, digits, '.', '_' and '-'; no leading or trailing dot, no '..', no device name",
        )
    return name


def inside(root: str | Path, name: str) -> Path:
    """Path of `name` in `root`, checked to stay there after links are followed (E204).

    Args:
        name: of a file, or `<folder>/<file>` with a folder of `SUBFOLDERS`.
    """
    folder, slash, file = name.partition("/")
    names = (folder, safe_slug(file)) if slash and folder in SUBFOLDERS else (safe_slug(name),)
    path = Path(root).joinpath(*names)
    if path.resolve() != Path(root).resolve().joinpath(*names):
        raise InterpError("E204", f"{name!r} leads out of its folder", where=str(root), fix="remove the link")
    return path


def write_inside(root: Path, name: str, data: bytes) -> Path:
    """`write_atomic` to a name in a run folder; its subfolder is made where it is not there (E204, E602)."""
    path = inside(root, name)
    try:
        if path.parent != root and not path.parent.is_dir():
            path.parent.mkdir()
            sync_folder(root)
    except OSError as error:
        raise not_written(path, error) from error
    return write_atomic(path, data)


def run_id(asked: Mapping[str, Any]) -> str:
    """Short digest of what was asked (model digests, task, method, seeds): equal questions have equal ids."""
    return digest(encode_json(asked))[:12]


def write_atomic(path: str | Path, data: bytes) -> Path:
    """Write a file so that its name holds either the old content or all of the new, also after a crash.

    Raises:
        InterpError: E602 where the system refuses (disk full, file too large, no permission); nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from error
    return path


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path, names: Sequence[str]) -> None:
    """Remove files of ours and make that durable."""
    if not names:
        return
    try:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise not_written(folder / names[0], error) from error


def not_written(path: Path, error: OSError) -> InterpError:
    return InterpError(
        "E602",
        f"{path.name} could not be written: {error.strerror or error}",
        where=str(path.parent),
        fix="free space there or choose another folder, then run the same command again",
    )


def to_json(data: Any) -> str:
    """Canonical JSON: sorted keys, no NaN (non-finite numbers must become null before), newline at the end."""
    return json.dumps(data, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def plain(data: Any) -> Any:
    """The same data as dicts, lists and Python numbers, the way JSON will give it back."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, tuple | list):
        return [plain(value) for value in data]
    return data.item() if hasattr(data, "item") else data


def flag_not_finite(data: Any) -> tuple[Any, list[list[Any]]]:
    """Plain copy with null for every number that is not finite, and a list of [path, 'nan' | 'inf' | '-inf'].

    Names are in alphabetical order, as in the file, so that what was read again is written as the same bytes.
    """
    if isinstance(data, float) and not math.isfinite(data):
        return None, [[[], repr(data)]]
    if not isinstance(data, dict | list):
        return data, []
    flags: list[list[Any]] = []
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    for key, value in sorted(data.items()) if isinstance(data, dict) else enumerate(data):
        copy[key], found = flag_not_finite(value)
        flags += [[[key, *path], text] for path, text in found]
    return copy, flags


def encode_json(data: Mapping[str, Any]) -> bytes:
    """Canonical JSON; numbers that are not finite are null, and `not_finite` says where and what they were."""
    copy, flags = flag_not_finite(plain(data))
    return to_json({**copy, "not_finite": flags} if flags else copy).encode("utf-8", "surrogatepass")


def decode_json(raw: bytes) -> dict[str, Any]:
    """What `encode_json` was given.

    Raises:
        ValueError: these are not bytes that `encode_json` made.
    """
    data = json.loads(raw)
    if not isinstance(data, dict) or to_json(data).encode("utf-8", "surrogatepass") != raw:
        raise ValueError("not canonical JSON")
    for path, text in data.pop("not_finite", []):
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = float(text)
    return data


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
