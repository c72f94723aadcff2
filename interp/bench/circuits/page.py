"""The bench as one offline HTML file, in the style of the reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from interp.bench.circuits.cells import FLOOR, Cell
from interp.bench.circuits.grid import brief_table, notes, shown, spoken_run
from interp.bench.circuits.table import CircuitBench, Row
from interp.bench.circuits.truths import Asked
from interp.bench.circuits.verdicts import verdicts
from interp.circuits.files import write_atomic
from interp.circuits.tables import number
from interp.report.cells import cells
from interp.report.page import FOLDER, environment, policy

HERE = Path(__file__).parent
COLUMNS = (
    "model", "ablation", "contender", "AP", "AP, floor", "AP of means", "AUROC", "AUROC, floor", "silent",
    "forwards a prompt", "seconds", "MiB",
)  # fmt: skip
FIGURES = (
    "precision", "floored", "netted", "auroc", "auroc_floored", "silent", "forwards", "seconds", "mib",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A cell of the large table.

    Attributes:
        share: of full colour, in percent.
        hint: all figures in words.
    """

    text: str
    key: float
    share: int
    hint: str


def report(bench: CircuitBench, path: str | Path) -> Path:
    """Write the page (E602)."""
    return write_atomic(path, render(bench).encode("utf-8"))


def render(bench: CircuitBench) -> str:
    """The page as text; it loads nothing, and the same figures give the same bytes."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    template = environment().from_string((HERE / "page.html").read_text(encoding="utf-8"))
    columns, rows = brief_table(bench)
    return template.render(
        bench=bench,
        headline=headline(bench),
        about=spoken_run(bench),
        floor=FLOOR,
        verdicts=verdicts(bench),
        notes=notes(bench),
        grid=[(truth, [_shown(bench, truth, row) for row in bench.rows]) for truth in bench.truths],
        tables=(
            ("In brief, by kind of model", columns, cells(rows)),
            ("Every figure", COLUMNS, cells([_figures(cell) for cell in bench.cells])),
        ),
        provenance=_provenance(bench.run),
        style=Markup(
            (FOLDER / "report.css").read_text(encoding="utf-8") + (HERE / "page.css").read_text(encoding="utf-8")
        ),
        script=Markup(script),
        policy=policy([script]),
    )


def headline(bench: CircuitBench) -> str:
    """What was found, in one sentence."""
    found = [one for one in verdicts(bench) if one.met is not None]
    kept = sum(bool(one.met) for one in found)
    return f"{len(bench.rows)} ways to rank edges on {len(bench.truths)} known circuits: {kept} of {len(found)} statements hold"


def _shown(bench: CircuitBench, truth: Asked, row: Row) -> Shown:
    cell = bench.cell(truth.name, row.name)
    where = f"{row.name} on {truth.name}"
    if cell.precision is None:
        return Shown(shown(cell), -1.0, 0, f"{where}: {cell.error}")
    figures = "; ".join(f"{name} {text}" for name, text in zip(COLUMNS[3:], _figures(cell)[3:], strict=True))
    return Shown(shown(cell), cell.precision, round(100 * cell.precision), f"{where}: {figures}")


def _figures(cell: Cell) -> tuple[str, ...]:
    values = [getattr(cell, name) for name in FIGURES]
    return (cell.model, cell.ablation, cell.contender, *("-" if one is None else number(one) for one in values))


def _provenance(run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The run record, group by group."""
    groups: dict[str, dict[str, str]] = {"run": {}}
    for name, value in run.items():
        if isinstance(value, Mapping):
            groups[name] = {key: _said(one) for key, one in value.items()}
        elif name != "command":
            groups["run"][name] = _said(value)
    return groups


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
