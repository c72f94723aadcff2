"""The passport of a head on one page, in the house style of `interp.report.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.circuits.tables import interval, number
from interp.passport.reading import ABLATION, DIRECT, Reading
from interp.report.figures import FONT, axis_ticks
from interp.report.palette import CONTROL, GRID, HEAD, INK, MUTED, SEQUENTIAL, SURFACE, scale
from interp.report.text import escaped, token_label, wrapped

if TYPE_CHECKING:
    from interp.passport.result import Passport

ROW = 22
"""Pixels of a line of verdicts."""

TITLES = ("what it scores: 0 is chance, 1 the most possible", "rank among all heads", "effect on the metric",
          "attention on one prompt", "attention by distance")  # fmt: skip


def passport_figure(passport: Passport) -> go.Figure:
    """Verdicts, effects and attention of one head.

    Filled points are claimed, open ones are not; small points are the same question under other seeds and templates. Grey
    bars are chance and what the head was compared with.
    """
    effects = [one for one in passport.main if one.family in (ABLATION, DIRECT)]
    scores = [one for one in passport.main if one.family not in (ABLATION, DIRECT)]
    bounded = [one for one in scores if np.isfinite(one.strength)]
    lines = max(len(bounded), len(scores), 8)
    figure = make_subplots(
        rows=2, cols=6, specs=[[{"colspan": 3}, None, None, {"colspan": 3}, None, None],
                               [{"colspan": 2}, None, {"colspan": 2}, None, {"colspan": 2}, None]],
        row_heights=[lines * ROW + 40, 260], vertical_spacing=110 / (lines * ROW + 420), horizontal_spacing=0.16,
        subplot_titles=TITLES,
    )  # fmt: skip
    _strengths(figure, passport, bounded)
    _ranks(figure, scores)
    _effects(figure, passport, effects)
    _pattern(figure, passport)
    _distance(figure, passport)
    return _framed(figure, passport, lines * ROW + 420)


def _strengths(figure: go.Figure, passport: Passport, rows: Sequence[Reading]) -> None:
    """Bounded scores on one scale."""
    every = [one for one in passport.readings if one.setting != passport.settings[0]]
    place = {one.question: index for index, one in enumerate(rows)}
    again = [one for one in every if one.question in place]
    figure.add_trace(
        go.Scatter(
            x=[one.strength for one in again], y=[place[one.question] for one in again], mode="markers",
            marker={"size": 5, "color": HEAD, "opacity": 0.45}, hoverinfo="text", hovertext=list(map(_hover, again)),
            name="other seeds and templates",
        ), row=1, col=1,
    )  # fmt: skip
    compared = [(one.others - one.chance) / (one.most - one.chance) for one in rows]
    figure.add_trace(
        go.Scatter(
            x=compared, y=list(range(len(rows))), mode="markers", hoverinfo="skip", name="other heads, or controls",
            marker={"symbol": "line-ns", "size": 11, "line": {"width": 2.5, "color": CONTROL}},
        ), row=1, col=1,
    )  # fmt: skip
    figure.add_trace(_points(rows, [one.strength for one in rows]), row=1, col=1)
    least = min((one.strength for one in (*rows, *again)), default=0.0)
    figure.update_xaxes(range=[min(-0.1, least - 0.04), 1.06], zeroline=True, row=1, col=1)
    _names(figure, [one.question for one in rows], 1, 1)


def _ranks(figure: go.Figure, rows: Sequence[Reading]) -> None:
    """Share of all heads that score less."""
    known = [one for one in rows if one.rank]
    below = [1 - (one.rank - 1) / max(one.of - 1, 1) for one in known]
    figure.add_trace(_points(known, below), row=1, col=4)
    ends = {"tickvals": [0, 0.5, 1], "ticktext": ["last", "middle", "first"]}
    figure.update_xaxes(range=[-0.06, 1.06], **ends, row=1, col=4)
    _names(figure, [one.question for one in known], 1, 4)


def _effects(figure: go.Figure, passport: Passport, rows: Sequence[Reading]) -> None:
    """Ablation by operator, and direct attribution, in the metric's unit."""
    place = {one.question: index for index, one in enumerate(rows)}
    again = [one for one in passport.readings if one.question in place and one.setting != passport.settings[0]]
    figure.add_trace(
        go.Scatter(
            x=[one.value for one in again], y=[place[one.question] for one in again], mode="markers", showlegend=False,
            marker={"size": 5, "color": HEAD, "opacity": 0.45}, hoverinfo="text", hovertext=list(map(_hover, again)),
        ), row=2, col=1,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[one.others for one in rows], y=list(range(len(rows))), mode="markers", hoverinfo="skip", showlegend=False,
            marker={"symbol": "line-ns", "size": 11, "line": {"width": 2.5, "color": CONTROL}},
        ), row=2, col=1,
    )  # fmt: skip
    points = _points(rows, [one.value for one in rows])
    bars = {"array": [one.high - one.value for one in rows], "arrayminus": [one.value - one.low for one in rows]}
    points.update(error_x={**bars, "color": HEAD, "thickness": 2, "width": 0})
    figure.add_trace(points, row=2, col=1)
    ends = [0.0, *(value for one in (*rows, *again) for value in (one.value, one.low, one.high, one.others))]
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = 0.06 * ((high - low) or 1.0)
    figure.update_xaxes(zeroline=True, range=[low - room, high + room], row=2, col=1)
    _names(figure, [one.question.removeprefix(f"{ABLATION}: ").replace("direct logit", "direct") for one in rows], 2, 1)


def _pattern(figure: go.Figure, passport: Passport) -> None:
    """Attention on one prompt."""
    if not passport.tokens:
        return
    labels = [token_label(token) for token in passport.tokens]
    trace = go.Heatmap(
        z=passport.pattern.tolist(), zmin=0, zmax=1, colorscale=scale(SEQUENTIAL), showscale=False,
        hovertemplate="query %{y}, key %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(trace, row=2, col=3)
    figure.update_xaxes(**axis_ticks(labels, most=18), tickangle=-60, showgrid=False, row=2, col=3)
    figure.update_yaxes(**axis_ticks(labels, most=18), range=[len(labels) - 0.5, -0.5], showgrid=False, row=2, col=3)


def _distance(figure: go.Figure, passport: Passport) -> None:
    """Mean attention to the key so many tokens before a query, above even attention."""
    far = list(range(len(passport.by_distance)))
    for values, style in ((passport.even, {"color": CONTROL, "dash": "dot"}), (passport.by_distance, {"color": HEAD})):
        trace = go.Scatter(
            x=far, y=values.tolist(), mode="lines", line={"width": 2, **style}, showlegend=False,
            hovertemplate="%{x} tokens back: %{y:.3f}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(trace, row=2, col=5)
    figure.update_xaxes(title="tokens back", row=2, col=5)
    figure.update_yaxes(rangemode="tozero", row=2, col=5)


def _points(rows: Sequence[Reading], x: Sequence[float]) -> go.Scatter:
    fill = [HEAD if one.claimed else SURFACE for one in rows]
    return go.Scatter(
        x=list(x), y=list(range(len(rows))), mode="markers", hoverinfo="text", hovertext=list(map(_hover, rows)),
        marker={"size": 9, "color": fill, "line": {"width": 2, "color": HEAD}}, showlegend=False,
    )  # fmt: skip


def _names(figure: go.Figure, labels: Sequence[str], row: int, column: int) -> None:
    figure.update_yaxes(
        **axis_ticks(labels, most=60),
        range=[max(len(labels), 1) - 0.5, -0.5],
        tickfont={"size": 11},
        row=row,
        col=column,
    )


def _hover(one: Reading) -> str:
    rank = f", rank {one.rank} of {one.of}" if one.rank else ""
    lines = [
        f"<b>{escaped(one.question)}</b> ({escaped(one.setting)}, {escaped(one.task)})",
        f"{number(one.value)}, interval {interval(one.low, one.high)}{rank}",
        f"chance {number(one.chance)}, compared with {number(one.others)}",
        f"q {number(one.q)}: {'claimed' if one.claimed else 'not claimed'}",
        *([escaped(one.note)] if one.note else []),
    ]
    return "<br>".join(lines)


def _framed(figure: go.Figure, passport: Passport, height: int) -> go.Figure:
    """House style, with the headline and the flags above."""
    flags = [f"{flag.kind}: {flag.says}" for flag in passport.flags]
    title = "<br>".join(escaped(part) for text in (passport.headline(), *flags) for part in _lines(text))
    above = 70 + 17 * title.count("<br>")
    axis = {"gridcolor": GRID, "zerolinecolor": MUTED, "automargin": True, "linecolor": GRID}
    figure.update_xaxes(**axis).update_yaxes(**axis, zeroline=False)
    figure.update_annotations(font={"size": 13, "color": INK})
    return figure.update_layout(
        template="none", height=height + above, dragmode=False, hovermode="closest",
        margin={"l": 44, "r": 16, "t": above + 34, "b": 60}, font={"family": FONT, "size": 12, "color": INK},
        title={"text": title, "x": 0.01, "xanchor": "left", "y": 1 - 24 / (height + above), "yref": "container", "yanchor": "top", "font": {"size": 14}},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": SURFACE, "bordercolor": MUTED, "font": {"color": INK}, "align": "left"},
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0.01},
    )  # fmt: skip


def _lines(text: str, width: int = 150) -> list[str]:
    """A sentence in lines, broken between words."""
    import textwrap

    return textwrap.wrap(text, width) or wrapped(text)
