"""Files that others wrote: bytes within a limit, JSON without doubt, and fields that say where they stand."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from interp.kernels.errors import InterpError, suggest

LIMIT = 256 * 2**20
"""Bytes. The importance file of a model of 32 layers with 32 heads, 1.6 million edges, takes 135 MB."""
PICKLE_STARTS = (b"\x80", b"PK\x03\x04")


class Field(NamedTuple):
    """A value of a file, and the keys that lead to it."""

    value: Any
    path: Path
    keys: tuple[str | int, ...] = ()

    def refuse(self, what: str, *, code: str = "E303", fix: str = "") -> NoReturn:
        """Raise an error that names this place."""
        place = "".join(f"[{key!r}]" for key in self.keys)
        raise InterpError(code, what, where=f"{self.path} {place}".rstrip(), fix=fix)

    def get(self, key: str) -> Field:
        """A field of an object."""
        if key not in self.fields():
            self.refuse(f"field {key!r} is missing")
        return Field(self.value[key], self.path, (*self.keys, key))

    def items(self) -> Iterator[tuple[str, Field]]:
        """Fields of an object by name."""
        for key, value in self.fields().items():
            yield key, Field(value, self.path, (*self.keys, key))

    def elements(self) -> Iterator[Field]:
        """Elements of a list."""
        for index, value in enumerate(self.sequence()):
            yield Field(value, self.path, (*self.keys, index))

    def fields(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            self.refuse(f"a {type(self.value).__name__}, not an object with names")
        return self.value

    def sequence(self) -> list[Any]:
        if not isinstance(self.value, list):
            self.refuse(f"a {type(self.value).__name__}, not a list")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str):
            self.refuse(f"a {type(self.value).__name__}, not a text")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.refuse(f"a {type(self.value).__name__}, not true or false")
        return self.value

    def integer(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.refuse(f"a {type(self.value).__name__}, not a whole number")
        return self.value

    def number(self, *, may_be_nan: bool = False) -> float:
        """A float; finite, or also not a number where the format means "not scored" by it."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            self.refuse(f"a {type(self.value).__name__}, not a number")
        try:
            number = float(self.value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) and not (may_be_nan and math.isnan(number)):
            self.refuse(f"{number} is not a finite number")
        return number

    def only(self, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Raise E303 where a field is missing or is none of these."""
        for key in required:
            self.get(key)
        for key in self.fields():
            if key not in required and key not in optional:
                self.refuse(f"field {str(key)[:80]!r} is not known", fix=suggest(str(key)[:80], {*required, *optional}))

    def names(self, expected: Collection[str], what: str) -> None:
        """Raise E201 where an object or a list of texts names something else, E303 where one is missing or there twice."""
        is_list = isinstance(self.value, list)
        given = [element.text() for element in self.elements()] if is_list else list(self.fields())
        for name in given:
            if name not in expected:
                self.refuse(f"no {what} {name[:80]!r} in this graph", code="E201", fix="read it onto its own graph")
        if len(set(given)) < len(given):
            self.refuse(f"{what} {Counter(given).most_common(1)[0][0]!r} is there twice")
        missing = sorted(set(expected).difference(given))
        if missing:
            self.refuse(f"{len(missing)} of {len(expected)} {what}s are missing, the first {missing[0]!r}")


def read_bytes(path: str | Path, limit: int = LIMIT) -> bytes:
    """Content of a file.

    Raises:
        InterpError: E204 no file, a folder, a device, not readable, or larger than the limit.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InterpError("E204", "not a file" if path.exists() else "no such file", where=str(path))
        with path.open("rb") as file:
            data = file.read(limit + 1) if path.stat().st_size <= limit else None
    except (OSError, ValueError) as error:
        raise InterpError("E204", f"the file cannot be read: {error}", where=str(path)) from error
    if data is None or len(data) > limit:
        raise InterpError("E204", f"the file has more than {limit} bytes", where=str(path), fix="write fewer edges")
    return data


def decode(data: bytes, path: str | Path) -> str:
    """Text of a file (E310 a pickle or an archive, E302 not UTF-8)."""
    if data.startswith(PICKLE_STARTS):
        raise InterpError("E310", "the file is a pickle or an archive, whatever its name says", where=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InterpError("E302", f"not UTF-8 at byte {error.start}", where=str(path)) from error


def read_json(path: str | Path, limit: int = LIMIT) -> Field:
    """The one object of a JSON file.

    Raises:
        InterpError: E204 and E302 as for any file; E301 not JSON, nested too deep or no object; E303 a name twice in
            one object; E310 a pickle.
    """
    text = decode(read_bytes(path, limit), path)
    repeated: list[str] = []

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated.append(Counter(name for name, _ in pairs).most_common(1)[0][0])
        return found

    try:
        value = json.loads(text, object_pairs_hook=to_dict)
    except (ValueError, RecursionError) as error:
        raise InterpError("E301", f"not usable JSON: {error}", where=str(path)) from error
    if repeated:
        raise InterpError("E303", f"field {repeated[0][:80]!r} appears twice in one object", where=str(path))
    if not isinstance(value, dict):
        raise InterpError("E301", f"a JSON {type(value).__name__}, not an object", where=str(path))
    return Field(value, Path(path))
