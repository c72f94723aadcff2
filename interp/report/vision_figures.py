"""Figures of heads that look at pictures, in the house style of `interp.report.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from plotly.subplots import make_subplots

from interp.report.figures import colour_bar, framed
from interp.report.palette import SEQUENTIAL, scale
from interp.report.text import escaped

if TYPE_CHECKING:
    from interp.vision.frame import Frame
    from interp.vision.geometry import Geometry

GAP = 1
"""Empty cells between the maps of two heads."""


def aligned_grid(
    maps: Float[np.ndarray, "layer head up_down left_right"], labels: Sequence[str] | None = None
) -> go.Figure:
    """Where every head looks, counted from the patch that looks: layers down, heads across; a ring marks the middle.

    Each map is shown as a share of its own largest cell, so that their shapes can be compared.

    Args:
        maps: of `interp.vision.head_maps.aligned_heads`.
        labels: of the layers; by default L0, L1, ...
    """
    n_layers, n_heads, high, wide = maps.shape
    tall, broad = high + GAP, wide + GAP
    canvas = np.full((n_layers * tall - GAP, n_heads * broad - GAP), np.nan)
    hover = np.full(canvas.shape, "", object)
    for layer, head in np.ndindex(n_layers, n_heads):
        rows, cols = slice(layer * tall, layer * tall + high), slice(head * broad, head * broad + wide)
        one = maps[layer, head]
        canvas[rows, cols] = one / max(float(one.max()), 1e-12)
        hover[rows, cols] = _offsets(f"L{layer}H{head}", one)
    trace = go.Heatmap(
        z=canvas.tolist(), hovertext=hover.tolist(), hoverinfo="text", hoverongaps=False, zmin=0, zmax=1,
        colorscale=scale(SEQUENTIAL), colorbar=colour_bar(),
    )  # fmt: skip
    middles_x = [head * broad + (wide - 1) / 2 for _ in range(n_layers) for head in range(n_heads)]
    middles_y = [layer * tall + (high - 1) / 2 for layer in range(n_layers) for _ in range(n_heads)]
    ring = go.Scatter(x=middles_x, y=middles_y, mode="markers", hoverinfo="skip", showlegend=False, marker=_RING)
    size = float(np.clip(640 / canvas.shape[1], 3, 12))
    figure = framed([trace, ring], height=int(np.clip(size * canvas.shape[0] + 90, 200, 900)))
    names = list(labels) if labels is not None else [f"L{layer}" for layer in range(n_layers)]
    figure.update_xaxes(
        tickvals=middles_x[:n_heads], ticktext=[str(head) for head in range(n_heads)], title="head", showgrid=False,
        range=[-0.5, canvas.shape[1] - 0.5],
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=middles_y[::n_heads], ticktext=names, title="layer", showgrid=False,
        range=[canvas.shape[0] - 0.5, -0.5], scaleanchor="x", constrain="domain",
    )  # fmt: skip
    return figure


_RING = {"symbol": "circle-open", "size": 7, "color": "#d97b3a", "line": {"width": 1.5}}


def _offsets(label: str, one: Float[np.ndarray, "up_down left_right"]) -> np.ndarray:
    """Hover text of every cell of a map."""
    high, wide = one.shape
    text = np.empty(one.shape, object)
    for row, col in np.ndindex(high, wide):
        down, across = row - high // 2, col - wide // 2
        text[row, col] = f"<b>{label}</b><br>{down:+d} down, {across:+d} right<br>{one[row, col]:.4f}"
    return text


def patch_overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    values: Sequence[Float[np.ndarray, "row col"]],
    titles: Sequence[str],
    where: Geometry,
    frame: Frame | None = None,
) -> go.Figure:
    """A picture, and beside it the same with numbers of its patches laid over it.

    Every panel runs from its own least to its own largest number.

    Args:
        picture: as it was given, or as the model reads it.
        values: maps to show, one a panel: by patches, or by the cells of image tokens of a text.
        titles: one for each map.
        where: which patch is where.
        frame: what was done to the given picture; None where it is shown as the model reads it.
    """
    figure = make_subplots(rows=1, cols=len(values) + 1, subplot_titles=["picture", *map(escaped, titles)])
    for panel in range(len(values) + 1):
        figure.add_trace(go.Image(z=picture, hoverinfo="skip"), row=1, col=panel + 1)
    for panel, one in enumerate(values):
        x, y = _edges(one.shape[:2], where, frame)
        trace = go.Heatmap(
            z=one.tolist(), x=x, y=y, opacity=0.55, colorscale=scale(SEQUENTIAL), showscale=False,
            hovertemplate="row %{customdata[0]}, column %{customdata[1]}: %{z:.3f}<extra></extra>",
            customdata=np.stack([*np.indices(one.shape)], -1),
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=panel + 2)
    styled = framed([], height=290)
    figure.update_layout(styled.layout.to_plotly_json() | {"xaxis": {}, "yaxis": {}}, margin={"t": 30})
    high, wide = picture.shape[:2]
    figure.update_xaxes(visible=False, range=[-0.5, wide - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[high - 0.5, -0.5])
    return figure


def _edges(shape: tuple[int, ...], where: Geometry, frame: Frame | None) -> tuple[list[float], list[float]]:
    """Borders of columns and rows in pixels of the shown picture; pixels have their middles at whole numbers."""
    high = where.shape[0] // shape[0] * where.patch[0]
    wide = where.shape[1] // shape[1] * where.patch[1]
    across, down = [wide * i for i in range(shape[1] + 1)], [high * i for i in range(shape[0] + 1)]
    if frame is not None:
        across = [(x + frame.offset[1]) / frame.scale[1] for x in across]  # type: ignore[misc]
        down = [(y + frame.offset[0]) / frame.scale[0] for y in down]  # type: ignore[misc]
    return [x - 0.5 for x in across], [y - 0.5 for y in down]
