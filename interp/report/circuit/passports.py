"""The passports of a circuit's heads as one figure: a row a head, a column a question."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.circuits.tables import interval, number
from interp.discovery.passports import Passports
from interp.passport.reading import Reading
from interp.report.figures import axis_ticks, colour_bar, framed
from interp.report.palette import DIVERGING, scale
from interp.report.text import escaped

ROW = 22
"""Pixels of a head."""


def passport_map(found: Passports) -> go.Figure:
    """Every verdict on every head; a dot marks claimed ones.

    Bounded scores stand between chance (0) and the most possible (1); other scores less chance, and effects, are shares of
    the largest one in their column. Below chance is 0, but for effects, whose chance is 0 and whose sign counts.
    """
    questions = list(dict.fromkeys(one.question for head in found.heads for one in head.readings))
    shape = (len(found.heads), len(questions))
    sizes, mark, hover = np.full(shape, np.nan), np.full(shape, "", object), np.full(shape, "", object)
    for row, head in enumerate(found.heads):
        for one in head.readings:
            at = row, questions.index(one.question)
            sizes[at], mark[at], hover[at] = _size(one), "●" if one.claimed else "", _hover(head.head, one)
    bounded = np.array([_is_bounded(found, question) for question in questions])
    largest = np.nanmax(np.abs(sizes), axis=0, initial=0.0)
    shown = sizes / np.where(bounded | (largest == 0), 1.0, largest)
    trace = go.Heatmap(
        z=shown.tolist(), text=mark.tolist(), texttemplate="%{text}", textfont={"size": 8}, hovertext=hover.tolist(),
        hoverinfo="text", hoverongaps=False, zmin=-1, zmax=1, xgap=1, ygap=1, colorscale=scale(DIVERGING),
        colorbar=colour_bar(),
    )  # fmt: skip
    figure = framed([trace], height=ROW * shape[0] + 230)
    figure.update_xaxes(**axis_ticks(questions, most=80), tickangle=-55, showgrid=False, tickfont={"size": 11})
    heads = [head.head for head in found.heads]
    return figure.update_yaxes(**axis_ticks(heads, most=80), range=[shape[0] - 0.5, -0.5], showgrid=False)


def _size(one: Reading) -> float:
    if np.isfinite(one.strength):
        return max(0.0, one.strength)
    above = one.value - one.chance
    return above if one.chance == 0 else float(np.maximum(0.0, above))


def _is_bounded(found: Passports, question: str) -> bool:
    return any(one.question == question and np.isfinite(one.strength) for head in found.heads for one in head.readings)


def _hover(head: str, one: Reading) -> str:
    rank = f", rank {one.rank} of {one.of}" if one.rank else ""
    lines = [
        f"<b>{escaped(head)}: {escaped(one.question)}</b> ({escaped(one.task)})",
        f"{number(one.value)}, interval {interval(one.low, one.high)}{rank}",
        f"chance {number(one.chance)}, compared with {number(one.others)}",
        f"q {number(one.q)}: {'claimed' if one.claimed else 'not claimed'}",
        *([escaped(one.note)] if one.note else []),
    ]
    return "<br>".join(lines)
