"""Figures of a circuit: faithfulness over size, and beside circuits of equal size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.circuits.tables import interval, number
from interp.report.figures import framed
from interp.report.palette import CONTROL, DIVERGING, HEAD, INK, MUTED

if TYPE_CHECKING:
    from interp.discovery.result import Circuit

LEGEND = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "xanchor": "left"}
DASHES = {"magnitude": "dot", "permuted scores": "dash", "permuted heads": "dashdot"}
"""Rankings that say nothing of the mechanism; medians over draws."""

NAMES = {"absolute": "by size of the score", "signed": "by score, what hurts last"}


def faithfulness_curve(found: Circuit) -> go.Figure:
    """Share of the metric's gap that circuits keep, over their share of the edges; grey: circuits of no meaning."""
    traces = []
    curves, n = found.curves, found.graph.n_edges
    share = curves.actual[0] / n
    random = curves.beside["random"]
    for y, fill in ((random.max(0), None), (random.min(0), "tonexty")):
        traces.append(
            go.Scatter(
                x=share, y=y, mode="lines", line={"width": 0, "color": CONTROL}, fill=fill, hoverinfo="skip",
                name=f"{len(random)} random circuits", showlegend=fill is not None,
            )
        )  # fmt: skip
    for name, dash in DASHES.items():
        if name in curves.beside:
            line = {"dash": dash, "color": MUTED}
            traces.append(go.Scatter(x=share, y=np.median(curves.beside[name], 0), mode="lines", line=line, name=name))
    for ranking, colour in zip(NAMES, (HEAD, DIVERGING[1]), strict=True):
        one = found.curve(ranking)
        traces.append(
            go.Scatter(
                x=one.actual, y=one.f, mode="lines+markers", line={"color": colour}, name=NAMES[ranking],
                error_y={"array": one.high - one.f, "arrayminus": one.f - one.low, "width": 0, "color": colour},
                hovertemplate="%{x:.2%} of the edges keep %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    f = found.faithfulness
    traces.append(
        go.Scatter(
            x=[found.share], y=[f.value], mode="markers", marker={"size": 13, "symbol": "diamond", "color": INK},
            name="this circuit",
            hovertemplate=f"{found.n_edges} edges keep {number(f.value)} {interval(f.low, f.high)}<extra></extra>",
        )
    )  # fmt: skip
    figure = framed(traces, height=360).update_layout(legend=LEGEND)
    figure.update_xaxes(title="share of all edges, after pruning", type="log", tickformat=".1~%")
    return figure.update_yaxes(title="share of the metric's gap kept")


def random_circuits(found: Circuit) -> go.Figure:
    """The circuit beside random circuits of as many edges."""
    values = found.random_faithfulness
    bars = go.Histogram(x=values, marker={"color": CONTROL}, name=f"{len(values)} random circuits")
    figure = framed([bars], height=240).update_layout(showlegend=False)
    f = found.faithfulness.value
    figure.add_vline(x=f, line={"color": INK, "width": 2}, annotation_text=f"this circuit {number(f)}")
    reach = [*values.tolist(), f, 0.0]
    figure.update_xaxes(title="share of the metric's gap kept", range=[min(reach) - 0.05, max(reach) + 0.1])
    return figure.update_yaxes(title="circuits")


def strongest_parts(found: Circuit) -> go.Figure:
    """Heads and MLPs of the circuit, by the sum of the sizes of what they write."""
    parts = sorted({**found.heads, **found.mlps}.items(), key=lambda item: item[1])
    names, sizes = [name for name, _ in parts], np.array([size for _, size in parts])
    bars = go.Bar(
        x=sizes, y=names, orientation="h", marker={"color": HEAD}, hovertemplate="%{y}: %{x:.3g}<extra></extra>"
    )
    figure = framed([bars], height=110 + 18 * len(names))
    return figure.update_xaxes(title=f"sum of |score| of the edges it writes ({found.run.task['metric_unit']})")
