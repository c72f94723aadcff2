"""`CircuitBench`: every contender on every truth, as measured, and as it is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.bench.circuits.cells import Cell
from interp.bench.circuits.contenders import Contender
from interp.bench.circuits.truths import Asked
from interp.circuits.files import write_atomic
from interp.kernels.errors import InterpError

SCHEMA = 1
KIND = "bench-circuits"
STORED = Path(__file__).parent / "measured.json"
DIGITS = 5
"""Significant digits of stored figures."""


@dataclass(frozen=True)
class Row:
    """A contender as data; see `Contender`."""

    name: str
    says: str
    sort: str
    method: str = ""
    steps: int = 0
    by_prompt: bool = True

    @classmethod
    def of(cls, one: Contender) -> Row:
        return cls(one.name, one.says, one.sort, one.method, one.steps, one.by_prompt)


@dataclass(frozen=True)
class CircuitBench:
    """All that was measured in one run.

    Attributes:
        run: command, start, seconds, seed, settings, machine and versions.
        truths: what was asked, in order.
        rows: contenders, in order.
        cells: every contender on every truth.
    """

    run: Mapping[str, Any]
    truths: tuple[Asked, ...]
    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], Cell]:
        return {(cell.truth, cell.contender): cell for cell in self.cells}

    def cell(self, truth: str, contender: str) -> Cell:
        """How a contender did on a truth, both by name."""
        return self._by_place[truth, contender]

    def precision(self, truth: str, contender: str) -> float | None:
        """Average precision; None where the contender refused."""
        return self.cell(truth, contender).precision

    @property
    def methods(self) -> list[Row]:
        """Contenders that intervene or differentiate: all of them know what causes what."""
        return [row for row in self.rows if row.sort == "method"]

    def of_kind(self, *kinds: str) -> list[Asked]:
        """Truths about models of these kinds."""
        return [truth for truth in self.truths if truth.kind in kinds]

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(truth.kind for truth in self.truths))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: tables as column names and rows, figures to a few digits."""
        tables = {"truths": self.truths, "rows": self.rows, "cells": self.cells}
        return {"schema": SCHEMA, "kind": KIND, "run": dict(self.run), **{n: _packed(t) for n, t in tables.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CircuitBench:
        """The inverse (E702 another schema or kind)."""
        if (data.get("schema"), data.get("kind")) != (SCHEMA, KIND):
            what = f"schema {data.get('schema')!r} of kind {data.get('kind')!r}, not {SCHEMA} of {KIND!r}"
            raise InterpError("E702", what, fix="measure it with this version: interp bench circuits --out FILE")
        kinds = {"truths": Asked, "rows": Row, "cells": Cell}
        return cls(data["run"], **{name: _unpacked(kind, data[name]) for name, kind in kinds.items()})

    def save(self, path: str | Path) -> Path:
        """Write JSON, one line a row (E602)."""
        return write_atomic(path, _lines(self.to_dict()).encode("utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> CircuitBench:
        """Read what `save` wrote.

        Raises:
            InterpError: E602 no such file; E701 no JSON; E702 another schema or kind.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InterpError("E602", f"cannot be read: {error.strerror}", where=str(path)) from error
        except ValueError as error:
            raise InterpError("E701", f"no JSON: {error}", where=str(path)) from error
        return cls.from_dict(data)


def stored() -> CircuitBench:
    """The result that the package is shipped with."""
    return CircuitBench.load(STORED)


def _packed(table: Sequence[Any]) -> dict[str, Any]:
    columns = [one.name for one in fields(table[0])] if table else []
    return {"columns": columns, "rows": [[_rounded(value) for value in astuple(one)] for one in table]}


def _unpacked(kind: type[Any], table: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(kind(**dict(zip(table["columns"], row, strict=True))) for row in table["rows"])


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _lines(data: Any) -> str:
    """JSON with one line for each row of a table."""
    parts = []
    for name, value in data.items():
        if isinstance(value, dict) and "rows" in value:
            rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False, allow_nan=False) for row in value["rows"])
            text = f'{{"columns": {json.dumps(value["columns"])}, "rows": [\n{rows}\n ]}}'
        else:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
        parts.append(f' "{name}": {text}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
