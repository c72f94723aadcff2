"""All figures: a result goes in, a Plotly figure comes out. Text of others is escaped, because Plotly reads tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.basedatatypes import BaseTraceType

from interp.ablation.result import AblationResult
from interp.circuits.evidence import control_effects
from interp.circuits.prompt_results import PromptRecord
from interp.circuits.tables import number
from interp.hooks.names import HeadId, parse_head
from interp.report.palette import CONTROL, DIVERGING, GRID, HEAD, INK, MUTED, SEQUENTIAL, SURFACE, scale
from interp.report.rows import HeadRow, head_row, ranked_rows
from interp.report.text import escaped, prompt_text, token_label, visible, wrapped

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TOP = 10

TICKS = 40
"""Most labels on one axis; with more positions every second or third has one."""

GOLDEN = 0.6180339887498949
"""Consecutive multiples of the golden ratio, modulo 1, spread points evenly and without chance."""

FULL_COLOUR = 5

POINT = {"size": 6, "opacity": 0.6}
MEAN_POINT = {"symbol": "diamond", "size": 10, "color": SURFACE, "line": {"width": 2, "color": INK}}


def effect_heatmap(result: AblationResult) -> go.Figure:
    """Mean effect of each head, layers down and heads across; a dot marks claimed heads.

    Blue (positive): the head helps. Orange: the model does better without it. 0 is the middle of the scale. Full colour
    is the largest effect, but at least `FULL_COLOUR` standard errors, so that a run of nothing but noise looks pale.
    """
    heads = [parse_head(label) for label in result.heads]
    layers = list(dict.fromkeys(layer_label(head) for head in heads))
    shape = (len(layers), max(head.head for head in heads) + 1)
    mean, place = np.full(shape, np.nan), np.full(shape, -1)
    hover, mark = np.full(shape, "", object), np.full(shape, "", object)
    for index, head in enumerate(heads):
        cell, row = (layers.index(layer_label(head)), head.head), head_row(result, index)
        mean[cell], place[cell], hover[cell], mark[cell] = row.mean, index, head_hover(row), "●" if row.claimed else ""
    error = np.nan_to_num(result.evidence.standard_error)
    size = max(float(np.nanmax(np.abs(mean), initial=0.0)), FULL_COLOUR * float(np.median(error))) or 1.0
    trace = go.Heatmap(
        z=mean.tolist(), customdata=place.tolist(), text=mark.tolist(), texttemplate="%{text}", textfont={"size": 9},
        hovertext=hover.tolist(), hoverinfo="text", hoverongaps=False, zmin=-size, zmax=size, xgap=2, ygap=2,
        colorscale=scale(DIVERGING), colorbar=colour_bar(),
    )  # fmt: skip
    figure = framed([trace], height=int(np.clip(34 * shape[0] + 110, 230, 640)))
    across = axis_ticks([str(head) for head in range(shape[1])], most=TICKS // 2)
    figure.update_xaxes(**across, title="head", tickangle=0, showgrid=False)
    figure.update_yaxes(**axis_ticks(layers), title="layer", range=[shape[0] - 0.5, -0.5], showgrid=False)
    return figure


def top_heads(result: AblationResult, k: int = TOP) -> go.Figure:
    """The k heads with the largest effects, with intervals, beside their matched controls.

    A filled point is a claimed head, an open one is not claimed. Grey: the mean effect of each control head, and a bar
    at the mean of them.
    """
    rows = ranked_rows(result)[:k]
    every = {label: head_row(result, place) for place, label in enumerate(result.heads)}
    controls = [(y, every[label]) for y, row in enumerate(rows) for label in row.controls]
    fill = [HEAD if row.claimed else SURFACE for row in rows]
    traces = [
        go.Scatter(
            name="control head", x=[row.mean for _, row in controls], y=[y for y, _ in controls], mode="markers",
            marker={**POINT, "color": CONTROL}, hoverinfo="text", hovertext=[head_hover(row) for _, row in controls],
            customdata=[row.place for _, row in controls],
        ),
        go.Scatter(
            name="mean of the controls", x=[row.control_mean for row in rows], y=list(range(len(rows))), mode="markers",
            marker={"symbol": "line-ns", "size": 13, "line": {"width": 2.5, "color": CONTROL}}, hoverinfo="skip",
        ),
        go.Scatter(
            name="head, with its interval", x=[row.mean for row in rows], y=list(range(len(rows))), mode="markers",
            marker={"color": fill, "size": 10, "line": {"width": 2, "color": HEAD}}, hoverinfo="text",
            error_x={**_interval(rows), "color": HEAD, "thickness": 2, "width": 0},
            hovertext=[head_hover(row) for row in rows], customdata=[row.place for row in rows],
        ),
    ]  # fmt: skip
    figure = framed(traces, height=110 + 30 * len(rows))
    figure.update_yaxes(**axis_ticks([row.label for row in rows]), range=[len(rows) - 0.5, -0.5])
    figure.update_xaxes(title=escaped(effect_title(result)), zeroline=True)
    return figure.update_layout(legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "xanchor": "left"})


def prompt_effects(result: AblationResult, head: str) -> go.Figure:
    """Effect of one head on each prompt, above the mean effect of its matched controls on the same prompts."""
    index = {label: place for place, label in enumerate(result.heads)}
    controls = [tuple(index[label] for label in labels) for labels in result.controls]
    row, spread = head_row(result, index[head]), _spread(len(result.prompts))
    effects = (result.effects[row.place], control_effects(result.effects, controls)[row.place])
    dots = {"mode": "markers", "hovertext": [prompt_hover(prompt) for prompt in result.prompts]}
    hover = "effect %{x:.3g}<br>%{hovertext}<extra></extra>"
    traces = [
        go.Scatter(
            **dots, x=values.tolist(), y=(y + spread).tolist(), marker={**POINT, "color": colour}, hovertemplate=hover
        )
        for y, (values, colour) in enumerate(zip(effects, (HEAD, CONTROL), strict=True))
    ]
    bars = {**_interval([row]), "color": INK, "thickness": 2, "width": 6}
    traces.append(go.Scatter(x=[row.mean], y=[0], mode="markers", hoverinfo="skip", error_x=bars, marker=MEAN_POINT))
    figure = framed(traces, height=210).update_layout(showlegend=False)
    figure.update_yaxes(**axis_ticks(["head", "controls"]), range=[1.5, -0.5], showgrid=False)
    figure.update_xaxes(title=escaped(effect_title(result)), zeroline=True, rangemode="tozero")
    return figure


def clean_metric(result: AblationResult) -> go.Figure:
    """Metric of the untouched model on each prompt, and its mean: does the model do the task?"""
    finite = result.baseline[np.isfinite(result.baseline)]
    dots = go.Scatter(
        x=result.baseline.tolist(), y=_spread(len(result.prompts)).tolist(), mode="markers",
        marker={**POINT, "color": HEAD}, hovertext=[prompt_hover(prompt) for prompt in result.prompts],
        hovertemplate="%{x:.3g}<br>%{hovertext}<extra></extra>",
    )  # fmt: skip
    mean = go.Scatter(
        x=[float(finite.mean())] if finite.size else [], y=[0], mode="markers", hoverinfo="skip", marker=MEAN_POINT
    )
    figure = framed([dots, mean], height=170).update_layout(showlegend=False)
    figure.update_yaxes(visible=False, range=[-0.6, 0.6])
    title = escaped(f"{visible(result.metric, 60)} of the untouched model")
    figure.update_xaxes(title=title, zeroline=True, rangemode="tozero")
    return figure


def pattern_figure(
    pattern: Float[np.ndarray, "query_pos key_pos"], tokens: Sequence[str], positions: Sequence[int] | None = None
) -> go.Figure:
    """Attention of one head on one prompt: a row a query, a column a key.

    Args:
        tokens: one string a position.
        positions: place of each token in the prompt, where some were left out; None counts from 0.
    """
    labels, places = [token_label(token) for token in tokens], positions or range(len(tokens))
    named = position_labels(tokens, places)
    rows = zip(named, pattern.tolist(), strict=True)
    hover = [
        [f"{query} → {key}: {number(weight)}" for key, weight in zip(named, row, strict=True)] for query, row in rows
    ]
    trace = go.Heatmap(
        z=pattern.tolist(),
        hovertext=hover,
        hoverinfo="text",
        zmin=0,
        zmax=1,
        colorscale=scale(SEQUENTIAL),
        colorbar=colour_bar(),
    )
    figure = framed([trace], height=int(np.clip(15 * len(tokens) + 150, 300, 640)))
    figure.update_xaxes(**axis_ticks(labels), tickangle=-60, showgrid=False)
    figure.update_yaxes(**axis_ticks(labels), range=[len(tokens) - 0.5, -0.5], showgrid=False)
    return figure


def position_labels(tokens: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Token and place, escaped for hover text."""
    return [f"{escaped(token_label(token))} ({place})" for token, place in zip(tokens, positions, strict=True)]


def effect_title(result: AblationResult) -> str:
    """What an effect axis shows."""
    return f"effect on {visible(result.metric, 60)}"


def head_hover(row: HeadRow) -> str:
    """One head's numbers as Plotly hover text."""
    lines = [
        f"<b>{escaped(row.label)}</b>",
        f"effect {row.effect}, interval {row.interval}",
        f"matched controls {number(row.control_mean, signed=True)}",
        f"q {row.q_text}: {row.verdict}",
        *([escaped(row.note)] if row.note else []),
    ]
    return "<br>".join(lines)


def prompt_hover(prompt: PromptRecord) -> str:
    """One prompt as Plotly hover text."""
    words = {"answer": prompt.answer, "distractor": prompt.distractor}
    asked = ", ".join(f"{name} {token_label(word)}" for name, word in words.items() if word)
    lines = [*wrapped(prompt_text(prompt.tokens)), *([asked] if asked else [])]
    return "<br>".join([f"<b>{escaped(visible(prompt.id, 60))}</b>", *map(escaped, lines)])


def layer_label(head: HeadId) -> str:
    """`L5`, or `vision.L5` outside the main tower."""
    return head.label.rpartition("H")[0]


def _spread(n: int) -> Float[np.ndarray, " n"]:
    """Offsets between -0.3 and 0.3 that keep points of equal value apart."""
    return ((np.arange(n) * GOLDEN) % 1 - 0.5) * 0.6


def _interval(rows: Sequence[HeadRow]) -> dict[str, Any]:
    """Error bars from the mean to the ends of the interval."""
    return {"array": [row.high - row.mean for row in rows], "arrayminus": [row.mean - row.low for row in rows]}


def axis_ticks(labels: Sequence[str], most: int = TICKS) -> dict[str, Any]:
    """Labels at integer positions: as categories, equal labels would fall together into one."""
    step = max(1, -(-len(labels) // most))
    return {"tickvals": list(range(0, len(labels), step)), "ticktext": [escaped(label) for label in labels[::step]]}


def colour_bar() -> dict[str, Any]:
    return {"thickness": 10, "outlinewidth": 0, "len": 1, "xpad": 6, "nticks": 5, "tickfont": {"size": 11}}


def framed(traces: Sequence[BaseTraceType], height: int) -> go.Figure:
    """A figure in the house style, without Plotly's default template."""
    figure = go.Figure(traces)
    axis = {"gridcolor": GRID, "zerolinecolor": MUTED, "zeroline": False, "automargin": True, "title": {"standoff": 8}}
    figure.update_layout(
        template="none", height=height, margin={"l": 44, "r": 8, "t": 10, "b": 40}, dragmode=False, hovermode="closest",
        font={"family": FONT, "size": 12, "color": INK}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis, yaxis=axis, hoverlabel={"bgcolor": SURFACE, "bordercolor": MUTED, "font": {"color": INK}, "align": "left"},
    )  # fmt: skip
    return figure
