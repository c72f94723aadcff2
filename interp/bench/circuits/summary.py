"""What a table of contenders and truths says in brief: one row for each contender, by kind of model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from interp.bench.circuits.table import CircuitBench, Row
from interp.bench.circuits.truths import Asked

PERFECT = 1 - 1e-9
"""Average precision from which on a ranking has no false edge before a true one: sums of shares round."""


@dataclass(frozen=True)
class Brief:
    """One contender on the truths of one kind of model.

    Attributes:
        answered, asked: truths; the rest were refused, and are left out of the means.
        precision: mean average precision.
        perfect: truths on which it is 1.
        rank: mean place among all contenders that answered, 1 is the best; equal ones share places.
        forwards, seconds: means.
    """

    contender: str
    kind: str
    answered: int
    asked: int
    precision: float | None
    perfect: int
    rank: float | None
    forwards: float | None
    seconds: float | None


def briefs(bench: CircuitBench) -> list[Brief]:
    """Every contender, kind by kind, the best first."""
    found = []
    for kind in bench.kinds:
        truths = bench.of_kind(kind)
        places = {truth.name: ranks(bench, truth) for truth in truths}
        rows = [_brief(bench, row, kind, truths, places) for row in bench.rows]
        found += sorted(rows, key=lambda one: -1.0 if one.precision is None else one.precision, reverse=True)
    return found


def ranks(bench: CircuitBench, truth: Asked) -> dict[str, float]:
    """Contender -> place by average precision on one truth."""
    known = {row.name: bench.precision(truth.name, row.name) for row in bench.rows}
    values = {name: value for name, value in known.items() if value is not None}
    places = rankdata(-np.round(list(values.values()), 9))
    return dict(zip(values, map(float, places), strict=True))


def _brief(bench: CircuitBench, row: Row, kind: str, truths: list[Asked], places: dict[str, dict[str, float]]) -> Brief:
    cells = [cell for truth in truths if not (cell := bench.cell(truth.name, row.name)).error]
    precisions = [cell.precision for cell in cells if cell.precision is not None]
    return Brief(
        row.name,
        kind,
        len(cells),
        len(truths),
        _mean(precisions),
        sum(value >= PERFECT for value in precisions),
        _mean(places[cell.truth][row.name] for cell in cells),
        _mean(cell.forwards for cell in cells if cell.forwards is not None),
        _mean(cell.seconds for cell in cells if cell.seconds is not None),
    )


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None
