"""`Entry`: an answer that a run keeps, as a safetensors file that notices every change of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interp.circuits.files import decode_json, encode_json, inside, remove
from interp.circuits.runfolder import PARTS
from interp.kernels.errors import InterpError
from interp.sweeps.parts import damaged

SUFFIX = ".safetensors"
ARRAY, ABOUT, SHA = "array.", "about", "sha256"


@dataclass(frozen=True, eq=False)
class Entry:
    """One answer.

    Attributes:
        arrays: its numbers.
        data: the rest, as plain data.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


def encode(key: str, entry: Entry) -> bytes:
    """An entry as the bytes of a file."""
    about = encode_json({"key": key, "data": entry.data})
    arrays = {f"{ARRAY}{name}": np.ascontiguousarray(value) for name, value in entry.arrays.items()}
    return _sealed({**arrays, ABOUT: np.frombuffer(about, dtype=np.uint8)})


def _sealed(content: Mapping[str, np.ndarray]) -> bytes:
    """Arrays with a digest of them all."""
    from safetensors.numpy import save

    sha = hashlib.sha256(save(dict(content))).digest()
    return save({**content, SHA: np.frombuffer(sha, dtype=np.uint8)})


def decode(key: str, data: bytes, name: str) -> Entry:
    """What `encode` was given.

    Raises:
        InterpError: E701 the bytes are damaged, or belong to something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = load(data)
        content.pop(SHA)
        about = decode_json(content[ABOUT].tobytes())
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise damaged(name, "cannot be read") from error
    if _sealed(content) != data:
        raise damaged(name, "was changed: its digest does not match")
    if about["key"] != key:
        raise damaged(name, "holds another answer")
    arrays = {name.removeprefix(ARRAY): value for name, value in content.items() if name.startswith(ARRAY)}
    return Entry(arrays, about["data"])


def entry_name(key: str) -> str:
    """Of the file of an entry in its run folder."""
    return f"{PARTS}/{key}{SUFFIX}"


def read(folder: Path, key: str) -> Entry:
    """A kept entry (E701 it is missing or damaged)."""
    name = entry_name(key)
    try:
        data = inside(folder, name).read_bytes()
    except OSError as error:
        raise damaged(name, "is missing") from error
    return decode(key, data, name)


def keys(folder: Path) -> list[str]:
    """Of all entries in a run folder, in order."""
    return sorted(path.stem for path in (folder / PARTS).glob(f"[!.]*{SUFFIX}"))


def problems(folder: Path) -> Iterator[tuple[str, InterpError]]:
    """Files of entries that are not what was written, with what is wrong."""
    for key in keys(folder):
        try:
            read(folder, key)
        except InterpError as error:
            yield entry_name(key), error


def clear(folder: Path) -> None:
    """Remove all entries of a run folder, and their own where nothing else is in it (E602)."""
    parts = folder / PARTS
    remove(parts, [f"{key}{SUFFIX}" for key in keys(folder)])
    if parts.is_dir() and not any(parts.iterdir()):
        parts.rmdir()
