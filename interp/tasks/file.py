"""A user's JSONL, CSV or TSV file as a task; every mistake in it is found in one pass."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from interp.hooks.examples import Drop, Example
from interp.kernels.errors import InterpError, InterpErrors
from interp.tasks.base import Task, TaskExamples, Tokenizer
from interp.tasks.reading import DELIMITERS, BadLine, Line, place, read_bytes, read_lines
from interp.tasks.rows import FIELDS, parse

MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class FileTask(Task):
    """Prompts written by a user.

    Fields of a row: `prompt` (or `clean`), text or a list of token ids; and, where wanted, `id`, `corrupt`, `answer`,
    `distractor` (text, or one token id), `roles` and `corrupt_roles` (role -> [start, end], character offsets, or
    token offsets in token ids). `meta` is not read. Rows without an id are called by their line: `line-12`.

    The default metric is what the rows allow: logit_diff, else log_prob where every row has an answer, else kl.

    Attributes:
        n: at most this many rows, the first ones; afterwards, how many there are.
        seed: must be 0: nothing is drawn.
        path: the file.
        skip_bad_lines: leave rows with mistakes out, and write them to `<file>.bad` as they were.
        digest: SHA-256 of the file.
        content: what was read.
    """

    name: ClassVar[str] = "file"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Prompts from a JSONL, CSV or TSV file."

    n: int = MAX_ROWS
    path: str = ""
    skip_bad_lines: bool = False
    digest: str = field(init=False)
    content: TaskExamples = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise InterpError("E205", "no path", where="task file", fix='task("file", path="prompts.jsonl")')
        if self.seed:
            fix = "leave the seed out: rows come in file order, nothing is drawn"
            raise InterpError("E205", f"seed is {self.seed}", where="task file", fix=fix)
        data = read_bytes(Path(self.path))
        content = collect(Path(self.path), data, self.n, self.skip_bad_lines)
        self._settle("digest", hashlib.sha256(data).hexdigest())
        self._settle("content", content)
        self._settle("n", len(content.examples))
        self._settle("metric", default_metric(content.examples))

    def _settle(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """What the file holds; the tokenizer plays no part in it."""
        return self.content

    def to_dict(self) -> dict[str, Any]:
        """See `Task.to_dict`; with the file's SHA-256."""
        return {**super().to_dict(), "sha256": self.digest}


def file_task(path: str | Path, *, skip_bad_lines: bool = False) -> FileTask:
    """The file as a task.

    Raises:
        InterpErrors: every mistake found, each with `file:line`.
    """
    return FileTask(path=str(path), skip_bad_lines=skip_bad_lines)


def default_metric(examples: tuple[Example, ...]) -> str:
    """The most telling metric that every row allows."""
    if any(example.answer is None for example in examples):
        return "kl"
    return "log_prob" if any(example.distractor is None for example in examples) else "logit_diff"


@dataclass
class Reading:
    """Rows of a file, sorted into usable, repeated and bad ones while it is read."""

    kept: list[Example] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    unused: dict[str, None] = field(default_factory=dict)

    def add(self, found: Example | Drop | BadLine) -> None:
        """Put a row where it belongs."""
        if isinstance(found, Example):
            self.kept.append(found)
        elif isinstance(found, Drop):
            self.drops.append(found)
        else:
            self.bad.append(found)


def collect(path: Path, data: bytes, limit: int, skip_bad_lines: bool) -> TaskExamples:
    """Read all rows; raise all mistakes together, or leave bad rows out where `skip_bad_lines` says so."""
    rows = sort_rows(path, data)
    errors = [line.error for line in rows.bad]
    if not rows.kept:
        errors.append(InterpError("E311", "no prompt left", where=str(path)))
    if errors and not (skip_bad_lines and rows.kept):
        raise InterpErrors(errors)
    notes = [f"Fields of {path} that are not read: {', '.join(rows.unused)}."] if rows.unused else []
    if rows.bad:
        notes.append(f"{len(rows.bad)} lines of {path} were skipped and written to {write_bad(path, data, rows.bad)}.")
    if len(rows.kept) > limit:
        notes.append(f"The first {limit} of {len(rows.kept)} prompts of {path} were taken.")
    skipped = [Drop(f"line-{line.number}", line.error.code, line.error.what, line.error.where) for line in rows.bad]
    return TaskExamples(tuple(rows.kept[:limit]), (*rows.drops, *skipped), tuple(notes))


def sort_rows(path: Path, data: bytes) -> Reading:
    """Every row of the file as an example, a repeated row or a bad line."""
    rows = Reading()
    seen: dict[str, Line] = {}
    for line in read_lines(path, data):
        found: Example | Drop | BadLine = line if isinstance(line, BadLine) else parse(path, line)
        if isinstance(line, Line) and isinstance(found, Example):
            keys = found.id, json.dumps(line.fields, sort_keys=True)
            if earlier := next((seen[key] for key in keys if key in seen), None):
                found = repeated(path, line, earlier, found.id)
            else:
                seen.update(dict.fromkeys(keys, line))
                rows.unused.update(dict.fromkeys(name for name in line.fields if name not in FIELDS))
        rows.add(found)
    rows.bad.sort(key=lambda line: line.number)
    return rows


def repeated(path: Path, line: Line, earlier: Line, name: str) -> Drop | BadLine:
    """A second row with the same id: left out where it says the same, a mistake where it does not."""
    where = place(path, line.number)
    if line.fields == earlier.fields:
        return Drop(f"line-{line.number}", "E315", f"exact duplicate of line {earlier.number}", where)
    what = f"id {name!r} is also that of line {earlier.number}, with other content"
    return BadLine(line.number, line.raw, InterpError("E308", what, where=where, fix="give each prompt its own id"))


def write_bad(path: Path, data: bytes, bad: list[BadLine]) -> Path:
    """Write bad lines to `<file>.bad`, under the header line of a CSV file, and return that path."""
    header = [data.split(b"\n", 1)[0]] if path.suffix.lower() in DELIMITERS else []
    side = path.with_name(f"{path.name}.bad")
    try:
        side.write_bytes(b"".join(raw.rstrip(b"\r") + b"\n" for raw in (*header, *(line.raw for line in bad))))
    except OSError as error:
        raise InterpError("E602", f"cannot write the skipped lines: {error.strerror}", where=str(side)) from error
    return side
