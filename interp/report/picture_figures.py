"""Figures of `interp.pictures`, in the house style of `interp.report.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from interp.circuits.tables import number
from interp.hooks.names import parse_head
from interp.report.figures import FONT, colour_bar, framed, layer_label
from interp.report.palette import CONTROL, GRID, HEAD, INK, MUTED, SEQUENTIAL, SURFACE, scale
from interp.report.text import escaped, token_label

if TYPE_CHECKING:
    from interp.pictures.closeness import Closeness
    from interp.pictures.depth import DepthProfile
    from interp.pictures.distance import AttentionByDistance
    from interp.pictures.joint import JointEmbedding
    from interp.pictures.matrix import HeadMatrix

KEY = "#d97b3a"
"""Keys are orange, queries blue."""

SIZES = (4.0, 14.0)
CELL = 92
LEGEND = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "xanchor": "left"}


def joint_figure(found: JointEmbedding, colour: str = "kind") -> go.Figure:
    """Queries (blue) and keys (orange); the larger, the longer. Near means attended, as the title says how far."""
    traces = []
    for name, kind, shade in (("query", False, HEAD), ("key", True, KEY)):
        rows = np.flatnonzero(found.is_key == kind)
        marker = {"size": _sizes(found)[rows].tolist(), "opacity": 0.6, "symbol": "diamond" if kind else "circle"}
        if colour == "position":
            marker |= {
                "color": found.positions[rows].tolist(), "colorscale": scale(SEQUENTIAL), "showscale": kind,
                "colorbar": {**colour_bar(), "title": "position"}, "line": {"width": 0.5, "color": shade},
            }  # fmt: skip
        else:
            marker |= {"color": shade}
        traces.append(
            go.Scatter(
                x=found.places[rows, 0].tolist(), y=found.places[rows, 1].tolist(), mode="markers", name=name,
                marker=marker, hoverinfo="text", hovertext=[_point(found, row) for row in rows],
            )
        )  # fmt: skip
    figure = framed(traces, height=560)
    figure.update_layout(
        title={"text": _joint_title(found), "font": {"size": 13}, "x": 0.01, "y": 0.96, "yanchor": "top"},
        margin={"t": 104}, legend=LEGEND,
    )  # fmt: skip
    figure.update_xaxes(title=_axis(found, 1), showticklabels=False, zeroline=False)
    return figure.update_yaxes(title=_axis(found, 2), showticklabels=False, zeroline=False)


def joint_matrix(found: Mapping[str, JointEmbedding]) -> go.Figure:
    """Embeddings of many heads as small multiples: layers down, heads across."""
    figure, cells = _grid(list(found))
    for label, one in found.items():
        for kind, shade in ((False, HEAD), (True, KEY)):
            rows = np.flatnonzero(one.is_key == kind)
            trace = go.Scattergl(
                x=one.places[rows, 0].tolist(), y=one.places[rows, 1].tolist(), mode="markers", showlegend=False,
                marker={"size": 3, "opacity": 0.5, "color": shade}, hoverinfo="text",
                hovertext=[_point(one, row) for row in rows],
            )  # fmt: skip
            figure.add_trace(trace, row=cells[label][0], col=cells[label][1])
    return _bare(figure)


def matrix_figure(found: HeadMatrix) -> go.Figure:
    """Patterns of many heads as small multiples: layers down, heads across; dark is much attention."""
    figure, cells = _grid(list(found.heads))
    shown = [token_label(token) for token in found.tokens[:: found.block]]
    names = [f"{word} ({place * found.block})" for place, word in enumerate(shown)]
    for label, values in zip(found.heads, found.cells, strict=True):
        row, column = cells[label]
        trace = go.Heatmap(
            z=values.tolist(), zmin=0, zmax=1, colorscale=scale(SEQUENTIAL), showscale=False, hoverinfo="text",
            hovertext=[[f"{label}: {escaped(q)} → {escaped(k)}: {number(float(w))}" for k, w in zip(names, line, strict=True)]
                       for q, line in zip(names, values, strict=True)],
        )  # fmt: skip
        figure.add_trace(trace, row=row, col=column)
        figure.update_yaxes(range=[len(names) - 0.5, -0.5], row=row, col=column)
    return _bare(figure)


def distance_figure(found: AttentionByDistance, heads: Sequence[str] | None = None) -> go.Figure:
    """Mean attention to the key so many tokens back, one line a head; dotted, even attention."""
    shown = list(found.heads) if heads is None else list(heads)
    single = len(shown) == 1
    traces = [
        go.Scatter(
            x=found.offsets.tolist(), y=found.mean[found.index(head)].tolist(), mode="lines", name=head,
            line={"width": 2 if single else 1.2, "color": HEAD}, opacity=1 if single else 0.55, showlegend=False,
            hovertemplate=f"{escaped(head)}: %{{y:.3f}} at %{{x}} tokens back<extra></extra>",
        )
        for head in shown
    ]  # fmt: skip
    even = go.Scatter(
        x=found.offsets.tolist(), y=found.even.tolist(), mode="lines", name="even attention",
        line={"width": 2, "color": CONTROL, "dash": "dot"},
    )  # fmt: skip
    figure = framed([*traces, even], height=320).update_layout(legend=LEGEND, showlegend=True)
    figure.update_xaxes(title="tokens back")
    return figure.update_yaxes(title="mean attention", rangemode="tozero")


def depth_figure(found: DepthProfile) -> go.Figure:
    """One panel a score: a dot a head, filled where it is claimed, a line through the means of layers; grey, chance."""
    names = list(found.scores)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=[escaped(name) for name in names])
    layers = found.layers
    for column, name in enumerate(names, start=1):
        result, means = found.scores[name], found.by_layer(name)
        chance = np.array([np.nanmean(result.null[layers == layer]) for layer in np.unique(layers)])
        for values, style in ((chance, {"color": CONTROL, "dash": "dot"}), (means[np.unique(layers)], {"color": HEAD})):
            line = go.Scatter(
                x=np.unique(layers).tolist(), y=values.tolist(), mode="lines", line={"width": 2, **style},
                hoverinfo="skip",
            )  # fmt: skip
            figure.add_trace(line, row=1, col=column)
        dots = go.Scatter(
            x=(layers + _aside(layers)).tolist(), y=result.mean.tolist(), mode="markers", hoverinfo="text",
            hovertext=[escaped(f"{head}: {number(float(value))}") for head, value in zip(result.heads, result.mean, strict=True)],
            marker={"size": 8, "color": [HEAD if one else SURFACE for one in result.claimed],
                    "line": {"width": 1.5, "color": HEAD}},
        )  # fmt: skip
        figure.add_trace(dots, row=1, col=column)
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
    figure.update_xaxes(title="layer", zeroline=False, dtick=max(1, int(layers.max()) // 12))
    return _styled(figure, 320, top=36)


def _aside(layers: Int[np.ndarray, " head"]) -> Float[np.ndarray, " head"]:
    """Offsets that keep the heads of a layer apart."""
    place = np.array([int((layers[:index] == layer).sum()) for index, layer in enumerate(layers)])
    width = int(np.bincount(layers).max())
    aside: np.ndarray = (place - (width - 1) / 2) / max(width, 1) * 0.5
    return aside


def _grid(heads: Sequence[str]) -> tuple[go.Figure, dict[str, tuple[int, int]]]:
    """Empty panels, and the row and column of each head."""
    parsed = [parse_head(head) for head in heads]
    layers = list(dict.fromkeys(layer_label(head) for head in parsed))
    columns = sorted({head.head for head in parsed})
    figure = make_subplots(
        rows=len(layers), cols=len(columns), horizontal_spacing=0.012, vertical_spacing=0.02,
        row_titles=layers, column_titles=[f"H{head}" for head in columns],
    )  # fmt: skip
    figure.update_layout(height=CELL * len(layers) + 40, width=CELL * len(columns) + 90)
    cells = {
        label: (layers.index(layer_label(head)) + 1, columns.index(head.head) + 1)
        for label, head in zip(heads, parsed, strict=True)
    }
    return figure, cells


def _bare(figure: go.Figure) -> go.Figure:
    """Panels without ticks."""
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False, "ticks": "", "showline": True}
    figure.update_xaxes(**hidden, linecolor=GRID, mirror=True).update_yaxes(**hidden, linecolor=GRID, mirror=True)
    return _styled(figure, figure.layout.height, top=30, bottom=10)


def _styled(figure: go.Figure, height: int, top: int, bottom: int = 44) -> go.Figure:
    figure.update_annotations(font={"size": 12, "color": INK})
    return figure.update_layout(
        template="none", height=height, margin={"l": 44, "r": 30, "t": top, "b": bottom}, dragmode=False, hovermode="closest",
        font={"family": FONT, "size": 12, "color": INK}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": SURFACE, "bordercolor": MUTED, "font": {"color": INK}, "align": "left"}, showlegend=False,
    )  # fmt: skip


def _sizes(found: JointEmbedding) -> Float[np.ndarray, " point"]:
    """Diameter of each point: by its norm, from the least to the largest of its kind."""
    sizes = np.empty(len(found.norms))
    for kind in (False, True):
        own = found.norms[found.is_key == kind]
        span = float(np.ptp(own)) or 1.0
        sizes[found.is_key == kind] = SIZES[0] + (SIZES[1] - SIZES[0]) * (own - own.min()) / span
    return sizes


def _point(found: JointEmbedding, row: int | np.integer) -> str:
    kind = "key" if found.is_key[row] else "query"
    place = f"position {found.positions[row]} of prompt {found.prompts[row]}"
    return f"<b>{escaped(token_label(found.tokens[row]))}</b> ({kind})<br>{place}<br>norm {number(float(found.norms[row]))}"


def _axis(found: JointEmbedding, number_: int) -> str:
    return f"{'component' if found.method == 'pca' else 't-SNE'} {number_}"


def _joint_title(found: JointEmbedding) -> str:
    share = f", {100 * found.explained:.0f} % of the variance" if found.method == "pca" else ""
    lines = (
        f"{found.head}, {found.method}{share}",
        found.embedded,
        f"rank correlation of nearness with attention: {_said(found.full)} before the picture, {_said(found.flat)} in it",
    )
    return "<br>".join(map(escaped, lines))


def _said(one: Closeness) -> str:
    return f"{number(one.correlation)} (keys permuted: {number(one.permuted)})"
