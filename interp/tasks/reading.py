"""A user's file, line by line: JSONL, CSV or TSV into rows of fields, every mistake with its line number."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.kernels.errors import InterpError, InterpErrors

MAX_BYTES = 64 * 2**20
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".npy", ".npz", ".ckpt", ".joblib")
PICKLE_STARTS = (*(b"\x80" + bytes([protocol]) for protocol in range(2, 6)), b"\x93NUMPY", b"PK\x03\x04")
AS_JSONL = "write the prompts as JSONL: one JSON object a line"
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A row that could be read: its first line number (from 1), its bytes and its fields."""

    number: int
    raw: bytes
    fields: dict[str, Any]


@dataclass(frozen=True)
class BadLine:
    """A row that could not be read or used, and why."""

    number: int
    raw: bytes
    error: InterpError


def read_bytes(path: Path) -> bytes:
    """The file's bytes without a byte order mark, once it is known to be small enough, text and no pickle.

    Raises:
        InterpErrors: E204 no such file, too large or of an unknown kind; E310 a pickle, by name or by first bytes.
    """
    if not path.is_file():
        raise _refused("E204", "no such file" if not path.exists() else "not a file", path, "check the path")
    if path.suffix.lower() in PICKLES:
        raise _refused("E310", f"{path.suffix} files can run code when they are read", path, AS_JSONL)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise _refused("E204", f"{size} bytes; the limit is {MAX_BYTES}", path, "split the file")
    data = path.read_bytes()
    if data.startswith(PICKLE_STARTS):
        raise _refused("E310", "the file is a pickle or an archive, whatever its name says", path, AS_JSONL)
    if path.suffix.lower() not in (*JSON_LINES, *DELIMITERS):
        kinds = ", ".join((*JSON_LINES, *DELIMITERS))
        raise _refused("E204", f"unknown kind of file {path.suffix!r}", path, f"use {kinds}")
    return data


def _refused(code: str, what: str, path: Path, fix: str = "") -> InterpErrors:
    return InterpErrors([InterpError(code, what, where=str(path), fix=fix)])


def read_lines(path: Path, data: bytes) -> Iterator[Line | BadLine]:
    """Rows of a file in order; blank lines are passed over, CRLF and a byte order mark are accepted."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    return _json_lines(path, data) if delimiter is None else _csv_rows(path, data, delimiter)


def place(path: Path, number: int) -> str:
    """`file:line`."""
    return f"{path}:{number}"


def _decoded(path: Path, data: bytes) -> Iterator[tuple[int, bytes, str | InterpError]]:
    """Line number, bytes and text of each line; the text is an E302 where the bytes are not UTF-8."""
    offset = len(BOM) if data.startswith(BOM) else 0
    for number, raw in enumerate(data[offset:].split(b"\n"), start=1):
        try:
            yield number, raw, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {offset + error.start} of the file"
            yield number, raw, InterpError("E302", what, where=place(path, number), fix="save the file as UTF-8")
        offset += len(raw) + 1


def _json_lines(path: Path, data: bytes) -> Iterator[Line | BadLine]:
    last = data.count(b"\n") + 1
    for number, raw, text in _decoded(path, data):
        if isinstance(text, InterpError):
            yield BadLine(number, raw, text)
        elif text.strip():
            yield _json_line(path, number, raw, text, is_cut=number == last)


def _bad(path: Path, number: int, raw: bytes, code: str, what: str, fix: str = "") -> BadLine:
    return BadLine(number, raw, InterpError(code, what, where=place(path, number), fix=fix))


def _json_line(path: Path, number: int, raw: bytes, text: str, is_cut: bool) -> Line | BadLine:
    repeated: list[str] = []

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        repeated.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(pairs)

    fix = 'one JSON object a line, such as {"prompt": "..."}'
    try:
        fields = json.loads(text, object_pairs_hook=to_dict)
    except json.JSONDecodeError as error:
        ending = "; it is the last line and has no line end, so the file may have been cut off" if is_cut else ""
        return _bad(path, number, raw, "E301", f"not JSON: {error.msg} at column {error.colno}{ending}", fix)
    except (ValueError, RecursionError) as error:
        return _bad(path, number, raw, "E301", f"not usable JSON: {error}", fix)
    if not isinstance(fields, dict):
        return _bad(path, number, raw, "E301", f"a JSON {type(fields).__name__}, not an object", fix)
    if repeated:
        return _bad(path, number, raw, "E303", f"field {repeated[0]!r} appears twice")
    return Line(number, raw, fields)


class _Texts:
    """Lines on their way into the CSV parser, which may take several for one row.

    Attributes:
        taken: numbers and bytes of the lines that went in since the last `take`.
        bad: lines that are not UTF-8; the parser never sees them.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self._lines = _decoded(path, data)
        self.taken: list[tuple[int, bytes]] = []
        self.bad: list[BadLine] = []

    def __iter__(self) -> Iterator[str]:
        for number, raw, text in self._lines:
            if isinstance(text, InterpError):
                self.bad.append(BadLine(number, raw, text))
            else:
                self.taken.append((number, raw))
                yield text + "\n"

    def take(self) -> tuple[int, bytes]:
        """First line number and bytes of what went in since the last call."""
        taken, self.taken = self.taken, []
        return taken[0][0], b"\n".join(raw for _, raw in taken)


def _csv_rows(path: Path, data: bytes, delimiter: str) -> Iterator[Line | BadLine]:
    """Rows under a header line; an empty cell is an absent field, `roles` cells hold JSON."""
    texts = _Texts(path, data)
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number, raw = texts.take()
            fix = 'close every quote; inside quotes write " as ""'
            yield _bad(path, number, raw, "E301", f"not CSV: {error}", fix)
            continue
        number, raw = texts.take()
        if not any(cell.strip() for cell in cells):
            continue
        if header:
            yield _csv_row(path, number, raw, header, cells)
            continue
        header = [cell.strip() for cell in cells]
        if problem := _header_problem(header):
            yield _bad(path, number, raw, "E303", problem, "the first line names the columns")
            return
    yield from texts.bad


def _header_problem(header: list[str]) -> str:
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        return f"column {twice[0]!r} appears twice"
    if {"prompt", "clean", "messages"} & set(header):
        return ""
    return f"no column 'prompt' or 'clean' among {', '.join(header)}"


def _csv_row(path: Path, number: int, raw: bytes, header: list[str], cells: list[str]) -> Line | BadLine:
    if len(cells) != len(header):
        what = f"{len(cells)} cells under a header of {len(header)}"
        return _bad(path, number, raw, "E301", what, "quote cells that hold the delimiter")
    fields: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    for name in ("roles", "corrupt_roles"):
        if name in fields:
            try:
                fields[name] = json.loads(fields[name])
            except (ValueError, RecursionError) as error:
                fix = 'write {"subject": [5, 9]}, quotes doubled'
                return _bad(path, number, raw, "E303", f"{name} is not JSON: {error}", fix)
    return Line(number, raw, fields)
