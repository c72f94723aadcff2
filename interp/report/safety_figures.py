"""Figures of safety heads, in the house style of `interp.report.figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.circuits.tables import number
from interp.report.figures import POINT, axis_ticks, colour_bar, framed
from interp.report.palette import CONTROL, DIVERGING, HEAD, MUTED, scale
from interp.report.text import escaped
from interp.safety.tables import line
from interp.safety.trials import BASE, GROWN
from interp.safety.trials import CONTROL as RANDOM

if TYPE_CHECKING:
    from interp.safety.result import SafetyReport

NAMES = {BASE: "untouched", GROWN: "best head, and the group as it grows", RANDOM: "random groups"}
LEAST_KL = 1e-4
"""Left end of the axis: no loss at all has no place on a logarithmic one."""
COLOURS = {BASE: MUTED, GROWN: HEAD, RANDOM: CONTROL}
LEGEND = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "xanchor": "left"}


def bargain(report: SafetyReport) -> go.Figure:
    """Held-out prompts: harmful compliance against what harmless prompts lose, one mark for each set of heads taken away."""
    cost, compliance = (report.numbers[name].mean(1) for name in ("cost", "compliance"))
    shown, traces = np.maximum(cost, LEAST_KL), []
    for kind, name in NAMES.items():
        rows = report.rows_of(kind)
        hover = ["<br>".join(map(escaped, _told(report, row))) for row in rows]
        traces.append(
            go.Scatter(
                x=shown[rows].tolist(), y=compliance[rows].tolist(), name=name, mode="markers+text",
                text=[_mark(report, row) for row in rows], textposition="middle right", textfont={"size": 10},
                marker={**POINT, "color": COLOURS[kind]}, hovertext=hover, hoverinfo="text",
            )
        )  # fmt: skip
    figure = framed(traces, height=340).update_layout(legend=LEGEND)
    most = float(report.run.method["max_kl"])
    figure.add_vline(x=most, line={"color": MUTED, "width": 1, "dash": "dot"})
    ends = [np.log10(LEAST_KL) - 0.1, np.log10(max(most, float(shown.max()))) + 0.3]
    figure.update_xaxes(
        title=f"harmless prompts lose (KL, nats; {LEAST_KL:g} or less at the left end)", type="log", dtick=1,
        exponentformat="power", range=ends,
    )  # fmt: skip
    return figure.update_yaxes(title="harmful compliance", type="log", dtick=1, exponentformat="power")


def _told(report: SafetyReport, row: int) -> list[str]:
    cells = line(report, row)
    return [
        f"<b>{cells[0]}</b>",
        f"compliance {cells[1]} {cells[2]}",
        f"by phrases {cells[4]}",
        f"harmless KL {cells[7]}",
    ]


def _mark(report: SafetyReport, row: int) -> str:
    """How many heads, beside marks of the group on its way."""
    trial = report.trials[row]
    if trial.kind != GROWN:
        return ""
    return trial.heads[0] if len(trial.heads) == 1 else f"{len(trial.heads)} heads"


def operator_heads(report: SafetyReport, most: int = 16) -> go.Figure:
    """Fall of the refusal score without each head, operators across; a dot marks heads that are claimed.

    Args:
        most: heads shown, those with the largest effect under any operator.
    """
    means = np.stack([report.effects(one).mean(1) for one in report.operators], 1)
    shown = np.argsort(-np.abs(means).max(1), kind="stable")[:most]
    shown = np.sort(shown)
    marks = [["●" if report.evidence[one].claimed[head] else "" for one in report.operators] for head in shown]
    hover = [
        [
            f"<b>{report.heads[head]}</b>, {one}<br>refusal falls by {number(means[head, k])}"
            for k, one in enumerate(report.operators)
        ]
        for head in shown
    ]
    size = float(np.abs(means).max()) or 1.0
    trace = go.Heatmap(
        z=means[shown].tolist(), text=marks, texttemplate="%{text}", textfont={"size": 9}, hovertext=hover, hoverinfo="text",
        zmin=-size, zmax=size, xgap=2, ygap=1, colorscale=scale(DIVERGING), colorbar=colour_bar(),
    )  # fmt: skip
    figure = framed([trace], height=120 + 20 * len(shown))
    figure.update_xaxes(**axis_ticks(list(report.operators)), showgrid=False, side="top")
    return figure.update_yaxes(
        **axis_ticks([report.heads[head] for head in shown]), range=[len(shown) - 0.5, -0.5], showgrid=False
    )


def operator_agreement(report: SafetyReport, name: str = "refusal") -> go.Figure:
    """Rank correlation of heads between operators."""
    table = report.agreement(name)
    trace = go.Heatmap(
        z=table.to_numpy().tolist(), text=table.round(2).to_numpy().tolist(), texttemplate="%{text}", hoverinfo="skip",
        zmin=-1, zmax=1, xgap=2, ygap=2, colorscale=scale(DIVERGING), colorbar=colour_bar(),
    )  # fmt: skip
    figure = framed([trace], height=130 + 34 * len(report.operators))
    figure.update_xaxes(**axis_ticks(list(report.operators)), showgrid=False)
    return figure.update_yaxes(**axis_ticks(list(report.operators)), autorange="reversed", showgrid=False)
