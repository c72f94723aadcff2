"""Figures of attention sinks, in the house style of `interp.report.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.circuits.tables import interval, number
from interp.report.figures import POINT, TICKS, axis_ticks, colour_bar, framed, layer_label
from interp.report.palette import CONTROL, HEAD, MUTED, SEQUENTIAL, SURFACE, scale
from interp.report.text import escaped
from interp.sinks.tables import finite_mean, line

if TYPE_CHECKING:
    from interp.sinks.effects import SinkEffects
    from interp.sinks.result import SinkReport

LEGEND = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "xanchor": "left"}


def received_heatmap(report: SinkReport, role: str | None = None) -> go.Figure:
    """Attention that a role receives, layers down and heads across.

    A dot marks heads that are dormant where they rest, a ring heads that were tested and are not.

    Args:
        role: None takes the first token.
    """
    at = report.roles.index(report.roles[0] if role is None else role)
    return _grid(report, report.mean("received")[:, at], 1.0)


def criteria_matrix(report: SinkReport, heads: Sequence[str] | None = None) -> go.Figure:
    """Four criteria of each head side by side: dark where one says sink, light where not, blank where it says nothing.

    Args:
        heads: None takes those where any criterion of appearance says sink.
    """
    names = ("attention", "stream", "value", "cause")
    looks = {head: one for head, one in zip(report.heads, report.criteria, strict=True)}
    shown = list(heads) if heads is not None else [
        head for head, one in looks.items() if one.attention or one.outlier or one.drained
    ]  # fmt: skip
    rows = [
        [float(looks[head].named[name]) if name in looks[head].named else np.nan for name in names] for head in shown
    ]
    hover = [["<br>".join(map(escaped, line(report, report.index(head))))] * len(names) for head in shown]
    trace = go.Heatmap(
        z=rows, hovertext=hover, hoverinfo="text", hoverongaps=False, zmin=0, zmax=1, xgap=2, ygap=1,
        colorscale=scale(SEQUENTIAL), showscale=False,
    )  # fmt: skip
    figure = framed([trace], height=110 + 16 * len(shown))
    figure.update_xaxes(**axis_ticks(names), showgrid=False, side="top")
    return figure.update_yaxes(**axis_ticks(shown), range=[len(shown) - 0.5, -0.5], showgrid=False)


def sink_by_length(report: SinkReport) -> go.Figure:
    """Attention to the first token in longer texts, one line a head, with the mean of all."""
    own = report.mean("received")[:, 0]
    at = (int(np.median([len(prompt.tokens) for prompt in report.prompts])), *report.lengths)
    values = np.stack([own, *(report.by_length["received"][index, :, 0] for index in range(len(report.lengths)))])
    lines = [
        go.Scatter(x=at, y=values[:, head], mode="lines", line={"width": 1, "color": CONTROL}, opacity=0.5, name=label,
                   hovertemplate=f"{label}: %{{y:.3f}} at %{{x}} tokens<extra></extra>", showlegend=False)
        for head, label in enumerate(report.heads)
    ]  # fmt: skip
    mean = go.Scatter(
        x=at, y=finite_mean(values, 1), mode="lines+markers", line={"width": 3, "color": HEAD}, name="mean of all heads"
    )
    figure = framed([*lines, mean], height=280).update_layout(legend=LEGEND)
    figure.update_xaxes(title="tokens", type="log", tickvals=list(at), ticktext=[str(length) for length in at])
    return figure.update_yaxes(title="attention to the first token", range=[0, 1.02])


def change_by_domain(report: SinkReport, heads: Sequence[str] | None = None) -> go.Figure:
    """What taking heads away changes, where they rest and where they work; grey, matched heads where this one rests.

    Args:
        heads: None takes those that look at a sink.
    """
    shown = list(heads) if heads is not None else list(report.sink_heads)
    rows, found = [report.index(head) for head in shown], report.changes
    places = list(range(len(shown)))
    ends = [(name, report.domains.index(name), colour) for name, colour in (("resting", HEAD), ("working", MUTED))]
    traces = [
        go.Scatter(
            name=name, x=found.mean[rows, at], y=places, mode="markers", marker={"color": colour, "size": 9},
            error_x={"array": found.high[rows, at] - found.mean[rows, at],
                     "arrayminus": found.mean[rows, at] - found.low[rows, at], "color": colour, "width": 0},
            hovertemplate="%{x:.3g}<extra></extra>",
        )
        for name, at, colour in ends
    ]  # fmt: skip
    traces.append(
        go.Scatter(name="matched heads, where this one rests", x=found.control[rows], y=places, mode="markers",
                   marker={**POINT, "color": CONTROL}, hovertemplate="%{x:.3g}<extra></extra>")
    )  # fmt: skip
    figure = framed(traces, height=120 + 22 * len(shown)).update_layout(legend=LEGEND)
    figure.update_yaxes(**axis_ticks(shown), range=[len(shown) - 0.5, -0.5])
    return figure.update_xaxes(
        title=f"change of the output without the head ({report.run.method['metric']}, each query)"
    )


def edit_effects(result: SinkEffects) -> go.Figure:
    """Effect of each edit with its interval; filled where it is claimed. Grey: the same edit elsewhere."""
    rows = result.top(len(result.edits))
    at = {label: index for index, label in enumerate(result.labels)}
    mean = result.evidence.mean
    controls = [(y, label) for y, row in enumerate(rows) for label in result.controls[at[row.label]]]
    traces = [
        go.Scatter(
            name="the same elsewhere", x=[float(mean[at[label]]) for _, label in controls], y=[y for y, _ in controls],
            mode="markers", marker={**POINT, "color": CONTROL}, hoverinfo="text",
            hovertext=[escaped(f"{label}: {number(float(mean[at[label]]), signed=True)}") for _, label in controls],
        ),
        go.Scatter(
            name="at the sink", x=[row.mean for row in rows], y=list(range(len(rows))), mode="markers",
            marker={"color": [HEAD if row.claimed else SURFACE for row in rows], "size": 10,
                    "line": {"width": 2, "color": HEAD}},
            error_x={"array": [row.ci_high - row.mean for row in rows],
                     "arrayminus": [row.mean - row.ci_low for row in rows], "color": HEAD, "width": 0},
            hoverinfo="text",
            hovertext=[escaped(f"{row.label}: {number(row.mean, signed=True)} {interval(row.ci_low, row.ci_high)}")
                       for row in rows],
        ),
    ]  # fmt: skip
    figure = framed(traces, height=120 + 34 * len(rows)).update_layout(legend=LEGEND)
    figure.update_yaxes(**axis_ticks([row.label for row in rows]), range=[len(rows) - 0.5, -0.5])
    return figure.update_xaxes(title=escaped(f"effect on {result.metric}"), zeroline=True)


def _grid(report: SinkReport, values: Float[np.ndarray, " head"], top: float) -> go.Figure:
    """One number a head as a heat map."""
    heads = report.head_ids
    layers = list(dict.fromkeys(layer_label(head) for head in heads))
    shape = (len(layers), max(head.head for head in heads) + 1)
    cells, hover, mark = np.full(shape, np.nan), np.full(shape, "", object), np.full(shape, "", object)
    for index, head in enumerate(heads):
        cell, said = (layers.index(layer_label(head)), head.head), line(report, index)
        dormant = report.criteria[index].dormant
        cells[cell], mark[cell] = values[index], "" if dormant is None else "●" if dormant else "○"
        hover[cell] = "<br>".join(
            f"{escaped(name)}: {escaped(text)}" for name, text in zip(report.columns, said, strict=True) if text
        )
    trace = go.Heatmap(
        z=cells.tolist(), text=mark.tolist(), texttemplate="%{text}", textfont={"size": 9}, hovertext=hover.tolist(),
        hoverinfo="text", hoverongaps=False, zmin=0, zmax=top, xgap=2, ygap=2, colorscale=scale(SEQUENTIAL),
        colorbar=colour_bar(),
    )  # fmt: skip
    figure = framed([trace], height=int(np.clip(34 * shape[0] + 110, 230, 640)))
    across = axis_ticks([str(head) for head in range(shape[1])], most=TICKS // 2)
    figure.update_xaxes(**across, title="head", tickangle=0, showgrid=False)
    return figure.update_yaxes(**axis_ticks(layers), title="layer", range=[shape[0] - 0.5, -0.5], showgrid=False)
