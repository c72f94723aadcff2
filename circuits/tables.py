"""Numbers, lists and tables as results print them, in a terminal and in a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

NAMED = 5
"""Things that a sentence names before it counts the others."""

Cells = Sequence[str]


def as_text(title: str, columns: Cells, rows: Sequence[Cells], remarks: Sequence[str] = ()) -> str:
    """A title, remarks, and a table with aligned columns."""
    table = [columns, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n  ".join([title, *remarks, *lines])


def as_html(title: str, columns: Cells, rows: Sequence[Cells], remarks: Sequence[str] = ()) -> str:
    """The same for a notebook; every text is escaped."""
    above = "".join(f"<p>{escape(line)}</p>" for line in (title, *remarks))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Tabled:
    """What prints as a table, in a terminal and in a notebook."""

    def _table(self) -> tuple[Any, ...]:
        """Title, column names, rows, and perhaps remarks: what `as_text` takes."""
        raise NotImplementedError

    def __str__(self) -> str:
        return as_text(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits; a dash for a missing number."""
    if math.isnan(value):
        return "-"
    return f"{value:+.3g}" if signed else f"{value:.3g}"


def interval(low: float, high: float) -> str:
    """Both ends, or that there is none."""
    return "none" if math.isnan(low) else f"[{number(low)}, {number(high)}]"


def counted(n: int, noun: str) -> str:
    """`1 head`, `2 heads`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(words: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more
