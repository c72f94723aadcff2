"""Figures of heads that bring a picture into a text, in the house style of `interp.report.figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.circuits.evidence import bootstrap_interval
from interp.hooks.names import parse_head
from interp.report.figures import axis_ticks, framed
from interp.report.palette import CONTROL, DIVERGING, HEAD, INK, SURFACE
from interp.report.text import escaped

if TYPE_CHECKING:
    from interp.heads.result import HeadScores
    from interp.vision.flow import Flow
    from interp.vision.pruning import PruningCurve
    from interp.vision.table import SeeingStudy
    from interp.vision.verdict import Row

LEGEND = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "xanchor": "left"}
LINES = (HEAD, DIVERGING[1], CONTROL, INK)
DASHES = ("solid", "dash", "dot", "dashdot")


def layer_profile(scores: HeadScores, title: str) -> go.Figure:
    """A score by depth: the mean of each layer with its interval over prompts, its heads, and chance.

    Args:
        title: of the axis.
    """
    heads = [parse_head(label) for label in scores.heads]
    layers = sorted({head.layer for head in heads})
    of = np.array([head.layer for head in heads])
    rows = np.stack([np.nanmean(scores.values[of == layer], 0) for layer in layers])
    mean, (low, high) = np.nanmean(rows, 1), bootstrap_interval(rows)
    dots = go.Scatter(
        name="head", x=of.tolist(), y=scores.mean.tolist(), mode="markers", hovertext=list(scores.heads),
        hovertemplate="%{hovertext}: %{y:.3g}<extra></extra>", marker={"color": CONTROL, "size": 6, "opacity": 0.7},
    )  # fmt: skip
    line = go.Scatter(
        name="layer", x=layers, y=mean.tolist(), mode="lines+markers", line={"color": HEAD}, hoverinfo="skip",
        error_y={"array": (high - mean).tolist(), "arrayminus": (mean - low).tolist(), "color": HEAD, "width": 0},
    )  # fmt: skip
    chance = [float(np.nanmean(scores.null[of == layer])) for layer in layers]
    dashed = go.Scatter(name="chance", x=layers, y=chance, mode="lines", line={"color": INK, "dash": "dot"})
    figure = framed([dots, line, dashed], height=280).update_layout(legend=LEGEND)
    figure.update_xaxes(tickvals=layers, title="layer")
    return figure.update_yaxes(title=escaped(title), rangemode="tozero")


def pruning_figure(curve: PruningCurve) -> go.Figure:
    """A metric by share of image tokens kept, one line a ranking, with intervals over prompts."""
    frame, traces = curve.to_frame(), []
    for name, colour, dash in zip(curve.rankings, LINES, DASHES, strict=False):
        rows = frame[frame["ranking"] == name]
        y = rows[curve.metric]
        bars = {"array": rows["high"] - y, "arrayminus": y - rows["low"], "width": 0, "thickness": 1, "color": colour}
        traces.append(
            go.Scatter(
                name=name,
                x=(100 * rows["share"]).tolist(),
                y=y.tolist(),
                mode="lines+markers",
                error_y=bars,
                line={"color": colour, "dash": dash},
                hovertemplate="%{x:.0f} %: %{y:.3f}",
            )  # fmt: skip
        )
    figure = framed(traces, height=300).update_layout(legend=LEGEND)
    figure.update_xaxes(title=f"image tokens kept from layer {curve.layer} on, %")
    return figure.update_yaxes(title=escaped(curve.metric))


def flow_figure(flow: Flow) -> go.Figure:
    """What is lost when a path is cut, window by window, with intervals over prompts."""
    frame, traces = flow.to_frame(), []
    windows = [f"{first}" if stop == first + 1 else f"{first}-{stop - 1}" for first, stop in flow.windows]
    for name, colour, dash in zip(flow.paths, LINES, DASHES, strict=False):
        rows = frame[frame["path"] == name]
        y = rows["lost"]
        bars = {"array": rows["high"] - y, "arrayminus": y - rows["low"], "width": 0, "color": colour}
        traces.append(
            go.Scatter(
                name=escaped(name),
                x=list(range(len(windows))),
                y=y.tolist(),
                mode="lines+markers",
                error_y=bars,
                line={"color": colour, "dash": dash},
            )  # fmt: skip
        )
    figure = framed(traces, height=300).update_layout(legend=LEGEND)
    figure.update_xaxes(**axis_ticks(windows), title="layers in which the path is cut")
    return figure.update_yaxes(title=escaped(f"{flow.metric} lost"), zeroline=True)


def study_figure(study: SeeingStudy) -> go.Figure:
    """Share of false yes that each method takes away, with its interval; open dots cost too much regular accuracy.

    Grey: control draws. A bar marks what the method must reach, 0 is no change.
    """
    from interp.vision.verdict import LEAST

    rows = study.rows
    drawn = [(share, y + 0.25) for y, row in enumerate(rows) for share in row.controls]
    reached = [row.reduction for row in rows]
    bars = {
        "array": [row.reduction_ends[1] - row.reduction for row in rows],
        "arrayminus": [row.reduction - row.reduction_ends[0] for row in rows],
        "color": HEAD, "width": 0,
    }  # fmt: skip
    traces = [
        go.Scatter(
            name="control draw", x=[x for x, _ in drawn], y=[y for _, y in drawn], mode="markers", hoverinfo="x",
            marker={"color": CONTROL, "size": 6, "opacity": 0.6},
        ),
        go.Scatter(
            name="method, with its interval", x=reached, y=list(range(len(rows))), mode="markers", error_x=bars,
            marker={"color": [HEAD if _is_cheap(row) else SURFACE for row in rows], "size": 10, "line": {"width": 2, "color": HEAD}},
            hovertext=[_hover(row) for row in rows], hoverinfo="text",
        ),
    ]  # fmt: skip
    figure = framed(traces, height=120 + 28 * len(rows)).update_layout(legend=LEGEND)
    figure.add_vline(x=LEAST, line={"color": INK, "dash": "dot", "width": 1})
    figure.update_yaxes(**axis_ticks([row.method for row in rows]), range=[len(rows) - 0.5, -0.5])
    return figure.update_xaxes(title="share of false yes taken away", zeroline=True, range=[-1.05, 1.05])


def _is_cheap(row: Row) -> bool:
    from interp.vision.verdict import MOST_LOST

    return row.regular >= -MOST_LOST


def _hover(row: Row) -> str:
    lines = [
        f"<b>{escaped(row.method)}</b> ({escaped(row.setting)})",
        f"false yes {row.false_yes:.3f}, less by {row.reduction:.0%}",
        f"regular accuracy {row.regular:+.3f}, yes to companions that are there {row.companion:+.3f}",
        f"beyond a threshold {row.beyond:+.3f}",
    ]
    return "<br>".join(lines)
