"""RunInfo, the provenance every result carries, and `Result`, the base of all of them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

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


class Result:
    """Base of every result: prints in a terminal and in a notebook, tabulates, plots, saves and loads.

    A subclass is a frozen dataclass with a `run: RunInfo`, a class attribute `kind`, and the methods below.
    """

    kind: ClassVar[str]
    run: RunInfo

    def headline(self) -> str:
        """One sentence: what was found, or that nothing was."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """Long table, one row an observation."""
        raise NotImplementedError

    def plot(self) -> go.Figure:
        """The result's main picture; never shown, only returned."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> Path:
        """Write a run folder and return its path."""
        raise NotImplementedError


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


def to_json(data: Any) -> str:
    """Canonical JSON: sorted keys, no NaN (non-finite numbers must become null before), newline at the end."""
    return json.dumps(data, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
