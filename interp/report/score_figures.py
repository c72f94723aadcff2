"""Figures of head scores, in the house style of `interp.report.figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.heads.parts import parse_part
from interp.report.figures import TICKS, axis_ticks, colour_bar, framed, layer_label
from interp.report.palette import DIVERGING, SEQUENTIAL, scale
from interp.report.text import escaped

if TYPE_CHECKING:
    from interp.heads.result import HeadScores


def score_heatmap(result: HeadScores) -> go.Figure:
    """Mean score of each head, layers down and heads across; a dot marks claimed heads.

    Colours run from 0 to the most that a head can score, or, where nothing bounds it, to the largest score; scores of
    both signs have 0 in the middle. Heads without a score are left blank.
    """
    heads = [parse_part(label) for label in result.heads]
    layers = list(dict.fromkeys(layer_label(head) for head in heads))
    shape = (len(layers), max(head.head for head in heads) + 1)
    score, hover, mark = np.full(shape, np.nan), np.full(shape, "", object), np.full(shape, "", object)
    for index, head in enumerate(heads):
        cell = layers.index(layer_label(head)), head.head
        score[cell], hover[cell], mark[cell] = result.mean[index], score_hover(result, index), _dot(result, index)
    size = result.ceiling or float(np.nanmax(np.abs(score), initial=0.0)) or 1.0
    signed = bool((np.nan_to_num(result.mean) < 0).any())
    trace = go.Heatmap(
        z=score.tolist(), text=mark.tolist(), texttemplate="%{text}", textfont={"size": 9}, hovertext=hover.tolist(),
        hoverinfo="text", hoverongaps=False, zmin=-size if signed else 0, zmax=size, xgap=2, ygap=2,
        colorscale=scale(DIVERGING if signed else SEQUENTIAL), colorbar=colour_bar(),
    )  # fmt: skip
    figure = framed([trace], height=int(np.clip(34 * shape[0] + 110, 230, 640)))
    across = axis_ticks([str(head) for head in range(shape[1])], most=TICKS // 2)
    figure.update_xaxes(**across, title=result.noun, tickangle=0, showgrid=False)
    figure.update_yaxes(**axis_ticks(layers), title="layer", range=[shape[0] - 0.5, -0.5], showgrid=False)
    return figure


def score_hover(result: HeadScores, index: int) -> str:
    """One head's numbers as Plotly hover text."""
    _, score, ends, chance, others, q, claimed, note = result.line(result.row(index))
    lines = [
        f"<b>{escaped(result.heads[index])}</b>",
        f"score {score}, interval {ends}",
        f"chance {chance}, other {result.noun}s {others}",
        f"q {q}: {'claimed' if claimed == 'yes' else 'not claimed'}",
        *([escaped(note)] if note else []),
    ]
    return "<br>".join(lines)


def _dot(result: HeadScores, index: int) -> str:
    return "●" if result.claimed[index] else ""
