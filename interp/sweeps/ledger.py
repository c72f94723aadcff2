"""`Ledger`: what a long run has found so far, answer by answer, so that whatever ends the process loses one at most.

A sweep fills in a table whose cells are known beforehand. A run that decides on the way what it asks next has no such
table: its code simply runs again, and every expensive answer that an earlier process was given is read instead of
computed. Answers are named by a digest of the whole question of the run and of what they answer. When the run is
finished, they go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.circuits.files import digest, encode_json, plain, remove, write_inside
from interp.circuits.runfolder import PLAN, RunFolder
from interp.kernels.errors import InterpError
from interp.sweeps.entries import Entry, clear, encode, entry_name, read
from interp.sweeps.plan import check_asked


@dataclass(frozen=True)
class Head:
    """The plan of a run that keeps a ledger.

    Attributes:
        kind: of the run.
        config: everything that decides its numbers.
        request: how to ask it again; None where it cannot be written down.
    """

    kind: str
    config: Mapping[str, Any]
    request: Mapping[str, Any] | None

    @property
    def digest(self) -> str:
        return digest(encode_json(vars(self)))

    @property
    def question(self) -> str:
        """Digest of what decides the numbers."""
        return digest(encode_json(self.config))

    @classmethod
    def read(cls, folder: str | Path) -> Head:
        """The plan of an unfinished run.

        Raises:
            InterpError: E204 no run that keeps a ledger; E701 its plan was changed.
        """
        if not begun_as(folder):
            fix = "a finished run is repeated by the command in its manifest"
            raise InterpError("E204", "not the folder of an unfinished run", where=str(folder), fix=fix)
        try:
            line = json.loads((Path(folder) / PLAN).read_bytes())
            found = cls(line["kind"], line["config"], line["request"])
            is_whole = line["digest"] == found.digest
        except (ValueError, LookupError, TypeError):
            is_whole = False
        if not is_whole:
            fix = "start the run anew, with --overwrite"
            raise InterpError("E701", f"{PLAN} was changed or cut", where=str(folder), fix=fix)
        return found


@dataclass(eq=False)
class Ledger:
    """Answers of one run; without a folder nothing is kept. Only the holder of the folder's lock writes to it.

    Attributes:
        path: folder of the run.
        question: digest of what decides its numbers.
        found: answers that were read.
        made: answers that were made and kept.
    """

    path: Path | None = None
    question: str = ""
    found: int = 0
    made: int = 0

    def begin(self, path: Path, head: Head, *, overwrite: bool = False) -> None:
        """Start a run in a folder: from now on it can be resumed.

        Raises:
            InterpError: E204 the folder holds something else; E602 it cannot be written.
        """
        writer = RunFolder.create(path, overwrite=overwrite)
        writer.write_lines(PLAN, [{**vars(head), "digest": head.digest}])
        self.path, self.question = path, head.question

    def go_on(self, path: Path, head: Head) -> None:
        """Go on with the run of a folder, which must have been asked the same.

        Raises:
            InterpError: E204 no such run; E602 it cannot be written; E701 its plan was changed; E703 another question.
        """
        planned = Head.read(path)
        if planned.kind != head.kind:
            what = f"the folder of a {planned.kind} run, not of a {head.kind} run"
            raise InterpError("E204", what, where=str(path), fix="name the folder of such a run")
        check_asked(planned.config, plain(head.config), str(path))
        RunFolder.unfinish(path)
        self.path, self.question = path, planned.question

    def kept(self, asked: Mapping[str, Any], make: Callable[[], Entry]) -> Entry:
        """An answer as it is kept; else it is made, and kept from now on. A damaged one is made again.

        Args:
            asked: what tells this answer from all others of the run, as plain data.

        Raises:
            InterpError: E602 it cannot be written.
        """
        if self.path is None:
            return make()
        key = digest(encode_json({"question": self.question, "asked": asked}))
        try:
            entry = read(self.path, key)
        except InterpError as error:
            if error.code != "E701":
                raise
        else:
            self.found += 1
            return entry
        entry = make()
        write_inside(self.path, entry_name(key), encode(key, entry))
        self.made += 1
        return entry

    def end(self) -> None:
        """Remove answers and plan; the run is finished (E602)."""
        if self.path is not None:
            forget(self.path)


def forget(folder: Path) -> None:
    """Remove the ledger of a finished run, its plan last, so that what is left of it is seen (E602)."""
    clear(folder)
    remove(folder, [PLAN])


def begun_as(folder: str | Path) -> str:
    """Kind of the run that was begun in a folder and keeps a ledger; '' for a sweep, and where there is none."""
    try:
        with open(Path(folder) / PLAN, "rb") as file:
            head = json.loads(file.readline())
    except (OSError, ValueError):
        return ""
    return str(head["kind"]) if isinstance(head, dict) and "kind" in head else ""


def kind_of(folder: str | Path) -> str:
    """Kind of the run in a folder, begun with a ledger or finished; '' where nothing says so."""
    try:
        return begun_as(folder) or str(RunFolder.unchecked(folder).manifest["kind"])
    except InterpError:
        return ""
