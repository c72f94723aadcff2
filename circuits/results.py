"""RunInfo, the provenance every result carries, and `Result`, the base of all of them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from interp.circuits.files import encode_json, run_id
from interp.circuits.tables import as_html, as_text
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.circuits.runfolder import RunFolder, RunWriter

SCHEMA = 1
PACKAGES = ("interp", "torch", "transformers", "transformer-lens", "numpy", "triton")


def package_versions() -> dict[str, str | None]:
    """Installed version of each package whose version can change a number; None where it is absent."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@dataclass(frozen=True)
class RunInfo:
    """Where numbers come from: enough to run them again and to see what differs when they do not come out.

    Attributes:
        model: description of the model: id, revision, digests, architecture, dtype, device, attention, head counts.
        task: name, options, seed, metric and its direction, prompt digest, number of rows kept and dropped.
        method: what was done: kind, operator, positions, heads.
        seeds: every seed used.
        versions: package versions, Python and platform.
        certificate: hooked model against the untouched one (see `interp.hooks.probe`).
        canary: proof that edits of this kind reach the computation.
        warnings: what the user should know, in full sentences.
        command: a command or call that repeats the run.
        started: UTC, ISO 8601.
        seconds: wall time of the run.
    """

    model: Mapping[str, Any]
    task: Mapping[str, Any]
    method: Mapping[str, Any]
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str | None] = field(default_factory=dict)
    certificate: Mapping[str, Any] = field(default_factory=dict)
    canary: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    command: str = ""
    started: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunInfo:
        return cls(**{**data, "warnings": tuple(data.get("warnings", ()))})


def environment() -> dict[str, str | None]:
    """`RunInfo.versions` of this process."""
    return {**package_versions(), "python": platform.python_version(), "platform": platform.platform()}


R = TypeVar("R", bound="Result")
"""`typing.Self`, which the run-time checks of the tests do not know in a class that is not checked as a whole."""


class Result:
    """Base of every result: prints in a terminal and in a notebook, tabulates, plots, saves and loads.

    A subclass is a frozen dataclass without an `__eq__` of its own (`eq=False`, `repr=False`) and with a `run: RunInfo`.

    Attributes:
        kind: what its folders are called in their manifest.
        columns: of the printed table.
        unasked: entries of the run's method that are no part of the question.
    """

    kind: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    unasked: ClassVar[frozenset[str]] = frozenset()

    run: RunInfo

    @property
    def run_id(self) -> str:
        """Digest of what was asked: equal for equal model, task, method and seeds, on any device."""
        model = {key: value for key, value in self.run.model.items() if key != "device"}
        method = {key: value for key, value in self.run.method.items() if key not in self.unasked}
        return run_id({"model": model, "task": self.run.task, "method": method, "seeds": self.run.seeds})

    def headline(self) -> str:
        """One sentence: what was found, or that nothing was."""
        raise NotImplementedError

    def about(self) -> str:
        """What was asked, in a few words."""
        return ", ".join(str(part["name"]) for part in (self.run.model, self.run.task) if "name" in part)

    def details(self) -> str:
        """What a terminal shows behind that."""
        return ""

    def remarks(self) -> list[str]:
        """Lines between headline and table."""
        return []

    def table(self) -> list[list[str]]:
        """The printed table, in the order of `columns`."""
        raise NotImplementedError

    def full_table(self) -> list[list[str]]:
        """The table with every row."""
        return self.table()

    def __repr__(self) -> str:
        asked = self.about() + self.details()
        name = f"{type(self).__name__}({asked})" if asked else type(self).__name__
        return as_text(f"{name}: {self.headline()}", self.columns, self.table(), self.remarks())

    def _repr_html_(self) -> str:
        title = f"{self.about()}: {self.headline()}".removeprefix(": ")
        return as_html(title, self.columns, self.table(), self.remarks())

    def __eq__(self, other: object) -> bool:
        """Equal in every field, missing numbers included."""
        return is_same(self, other) if type(other) is type(self) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash, and equality is by value

    def to_frame(self) -> pd.DataFrame:
        """Long table, one row an observation."""
        raise NotImplementedError

    def plot(self) -> go.Figure:
        """The result's main picture; never shown, only returned."""
        raise NotImplementedError

    def figures(self) -> dict[str, go.Figure]:
        """Every picture of the result by its caption, the main one first."""
        return {first_line(type(self).plot): self.plot()}

    def tables(self) -> dict[str, tuple[Sequence[str], list[list[str]]]]:
        """Further tables of the page: caption -> column names and rows."""
        return {}

    def drawings(self) -> dict[str, Any]:
        """Pictures of a circuit (`interp.report.circuit.nodes.Drawing`) by caption; most results have none."""
        return {}

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run folder; `overwrite` replaces a run that is there.

        Raises:
            InterpError: E204 the folder holds something else; E602 it cannot be written.
        """
        from interp.circuits.runfolder import RunFolder

        return self.write(RunFolder.create(folder, overwrite=overwrite))

    def write(self, writer: RunWriter) -> Path:
        """Write all files; the manifest also holds the run's id, the headline, and what `write_files` gives."""
        content = self.write_files(writer)
        return writer.finish(self.kind, self.run, run_id=self.run_id, headline=self.headline(), **content).path

    @classmethod
    def load(cls: type[R], folder: str | Path) -> R:
        """Read a run folder and check every file in it.

        Raises:
            InterpError: E204 no complete run; E701 a file is missing, changed or does not fit the others; E702 a
                schema or kind that this version does not read.
        """
        from interp.circuits.runfolder import RunFolder

        run = RunFolder.open(folder, cls.kind)
        return cls(run=run.run, **cls.read_files(run))  # type: ignore[call-arg]

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        """Write files beside the manifest, and give further entries of it."""
        raise NotImplementedError

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        """All fields but the run, from what `write_files` wrote (E701)."""
        raise NotImplementedError


def first_line(documented: Any) -> str:
    """What a function says of itself, in one line without its stop."""
    return (getdoc(documented) or "").split("\n")[0].rstrip(".")


def is_same(one: Any, other: Any) -> bool:
    """Whether two fields are equal; missing numbers are, and in mappings tuples and the lists JSON makes of them."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, float):
        return bool(one == other or (one != one and other != other))
    if is_dataclass(one):
        return type(one) is type(other) and all(
            is_same(getattr(one, part.name), getattr(other, part.name)) for part in fields(one)
        )
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if not isinstance(one, Mapping):
        return bool(one == other)
    if any(isinstance(value, np.ndarray) for value in one.values()):
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    return encode_json(one) == encode_json(other)


def check_schema(data: Mapping[str, Any], where: str | Path, kind: str) -> None:
    """Refuse a file that this version cannot read (E702)."""
    if data.get("schema") != SCHEMA:
        raise InterpError(
            "E702",
            f"schema {data.get('schema')!r}; this version of interp reads schema {SCHEMA}",
            where=str(where),
            fix="open it with the version of interp named under run.versions in manifest.json",
        )
    if data.get("kind") != kind:
        raise InterpError("E702", f"a {data.get('kind')!r} result, not {kind!r}", where=str(where))
