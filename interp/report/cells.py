"""Cells of a table that the page can sort, whatever stands in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Cell(NamedTuple):
    """What a cell shows, and the number it is sorted by."""

    text: str
    key: float


def cells(table: Sequence[Sequence[str]]) -> list[list[Cell]]:
    """A printed table with sort keys: columns whose every cell begins with a number (or is '-') by it, others by text."""
    columns = [_column(column) for column in zip(*table, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _column(texts: Sequence[str]) -> list[Cell]:
    found = [NUMBER.match(text.lstrip("[")) for text in texts]
    if any(found) and all(match or text in ("", "-", "none") for match, text in zip(found, texts, strict=True)):
        keys = [float(match[0]) if match else float("nan") for match in found]
    else:
        order = {text: float(place) for place, text in enumerate(sorted(set(texts)))}
        keys = [order[text] for text in texts]
    return [Cell(text, key) for text, key in zip(texts, keys, strict=True)]
