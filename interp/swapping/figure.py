"""A result of swapping as a heat map, drawn as the effects of an ablation are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.ablation.result import AblationResult
from interp.circuits.results import RunInfo
from interp.circuits.tables import interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.swapping.result import SwapResult


def heatmap(result: SwapResult) -> go.Figure:
    """Mean effect of each head (down) under each class (across)."""
    from interp.report.figures import effect_heatmap
    from interp.report.text import escaped

    width = len(result.classes) - 1
    figure = effect_heatmap(_as_ablation(result, width))
    hover = [
        [escaped(_hover(result, row * width + column)).replace("\n", "<br>") for column in range(width)]
        for row in range(len(result.heads))
    ]
    named = {"tickmode": "array", "tickangle": 0}
    figure.update_traces(hovertext=hover)
    figure.update_xaxes(**named, tickvals=[*range(width)], ticktext=[escaped(name) for name in result.names[:-1]])
    figure.update_xaxes(title="the head alone runs with")
    figure.update_yaxes(**named, tickvals=[*range(len(result.heads))], ticktext=[*map(escaped, result.heads)])
    figure.update_yaxes(title="head", tickfont={"size": 10})
    return figure.update_layout(height=18 * len(result.heads) + 110)


def _hover(result: SwapResult, index: int) -> str:
    row = result.row(index)
    verdict = "claimed" if row.claimed else "not claimed"
    close = f"recall {result.recall[index].mean():.3g}, output error {result.output_error[index].mean():.3g}"
    lines = [row.label, f"effect {row.mean:+.3g}, interval {interval(row.ci_low, row.ci_high)}"]
    lines += [f"controls {row.control_mean:+.3g}, {verdict}", close, f"keys read {result.keys[index].mean():.3g}"]
    return "\n".join([*lines, *([row.note] if row.note else [])])


def _as_ablation(result: SwapResult, width: int) -> AblationResult:
    """The same effects under labels that say where they stand in the picture."""
    labels = tuple(f"L{row}H{column}" for row in range(len(result.heads)) for column in range(width))
    run = RunInfo.from_dict({**result.run.to_dict(), "method": {**result.run.method, "operator": "swap"}})
    place = {head: row for row, head in enumerate(result.heads)}
    controls = tuple(
        tuple(f"L{place[other]}H{column}" for other in others) for others in result.controls for column in range(width)
    )
    return AblationResult(run, labels, result.prompts, result.baseline, result.values, controls, result.drops)
