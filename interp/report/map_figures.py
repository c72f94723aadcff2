"""Figures of token maps, in the house style of `interp.report.figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.circuits.tables import number
from interp.kernels.errors import InterpError, suggest
from interp.maps.curves import CURVES
from interp.report.figures import axis_ticks, framed, position_labels
from interp.report.palette import CONTROL, DIVERGING, HEAD, MUTED, scale
from interp.report.text import escaped, token_label

if TYPE_CHECKING:
    from interp.maps.result import TokenMaps

LINES = ((HEAD, "solid"), (DIVERGING[0], "solid"), (HEAD, "dash"), (DIVERGING[0], "dash"))
"""Of the best methods in a figure of curves, in their order; the others are thin grey lines."""


def token_heatmap(maps: TokenMaps, prompt: int = 0) -> go.Figure:
    """One prompt, a row a method and a column a token; below, what the metric loses without each token.

    Blue: the token speaks for the answer, orange: against it. Each row is divided by its largest number, since methods
    have units of their own. The place at which the answer is read is blank: it cannot be taken away.

    Args:
        prompt: its number.

    Raises:
        InterpError: E203, no such prompt.
    """
    if not 0 <= prompt < len(maps.prompts):
        raise InterpError("E203", f"no prompt {prompt}", fix=f"prompts are 0 to {len(maps.prompts) - 1}")
    tokens = maps.prompts[prompt].tokens
    n = len(tokens)
    names = [*maps.methods, *(f"without it ({way})" for way in maps.ways)]
    found = np.concatenate([maps.values[:, prompt, :n], [maps.effects[way][prompt, :n] for way in maps.ways]])
    found = np.where(maps.tokens[prompt, :n], found, np.nan)
    size = np.nanmax(np.abs(found), axis=1, keepdims=True, initial=0)
    cells = found / np.where(size > 0, size, 1)
    labels = position_labels(tokens, range(n))
    hover = [
        [f"{label}<br>{escaped(name)}: {number(value)}" for label, value in zip(labels, row, strict=True)]
        for name, row in zip(names, found.tolist(), strict=True)
    ]
    trace = go.Heatmap(
        z=cells.tolist(), hovertext=hover, hoverinfo="text", hoverongaps=False, zmin=-1, zmax=1, xgap=2, ygap=2,
        colorscale=scale(DIVERGING), showscale=False,
    )  # fmt: skip
    figure = framed([trace], height=130 + 24 * len(names))
    figure.update_xaxes(**axis_ticks([token_label(token) for token in tokens]), tickangle=-60, showgrid=False)
    return figure.update_yaxes(**axis_ticks(names), range=[len(names) - 0.5, -0.5], showgrid=False)


def deletion_curves(maps: TokenMaps, way: str | None = None, curve: str = CURVES[0]) -> go.Figure:
    """The metric as tokens go in the order of each map, mean over prompts; grey: random order.

    Args:
        way: how tokens are taken away; None takes the first.
        curve: 'deletion', or 'insertion' where all are gone and come back.

    Raises:
        InterpError: E201, unknown way or curve.
    """
    chosen = maps.ways[0] if way is None else way
    for given, known in ((chosen, maps.ways), (curve, CURVES)):
        if given not in known:
            raise InterpError("E201", f"no curve of {given!r}", fix=suggest(given, known))
    mean = np.nanmean(maps.curves[chosen][CURVES.index(curve)], axis=-1)
    share = np.linspace(0, 1, mean.shape[1])
    order = [one for one in maps.contest.order if one != maps.control]
    order += [one for one in range(maps.control) if one not in order]
    looks = [LINES[place] if place < len(LINES) else (CONTROL, "solid") for place in range(len(order))]
    traces = [
        go.Scatter(
            x=share.tolist(), y=mean[one].tolist(), mode="lines", name=escaped(maps.methods[one]),
            line={"color": colour, "dash": dash, "width": 2.5 if place < len(LINES) else 1},
            opacity=1 if place < len(LINES) else 0.6,
            hovertemplate=f"{escaped(maps.methods[one])}: %{{y:.3g}} at %{{x:.0%}}<extra></extra>",
        )
        for place, (one, (colour, dash)) in enumerate(zip(order, looks, strict=True))
    ]  # fmt: skip
    traces.append(
        go.Scatter(x=share.tolist(), y=mean[maps.control].tolist(), mode="lines", name="random order",
                   line={"color": MUTED, "width": 2.5, "dash": "dot"},
                   hovertemplate="random order: %{y:.3g} at %{x:.0%}<extra></extra>")
    )  # fmt: skip
    figure = framed(traces, height=360)
    verb = "taken away" if curve == CURVES[0] else "brought back"
    figure.update_xaxes(title=f"share of tokens {verb}, most important first", tickformat=".0%")
    return figure.update_yaxes(title=escaped(f"{maps.metric} ({chosen})"))
