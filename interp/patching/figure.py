"""A result of patching as a heat map: which rows and columns its cells have, drawn as the effects of an ablation are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from interp.ablation.result import AblationResult
from interp.circuits.results import RunInfo
from interp.circuits.tables import interval
from interp.patching.cells import Cell
from interp.patching.text import asked, size

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.patching.result import PatchResult


def heatmap(result: PatchResult) -> go.Figure:
    """Mean effects, with their sign and colours as in `interp.report.figures.effect_heatmap`."""
    from interp.report.figures import effect_heatmap
    from interp.report.text import escaped

    keys = [_key(cell) for cell in result.cells]
    rows, columns = (_order(key[axis] for key in keys) for axis in (0, 1))
    grid = [(rows.index(row), columns.index(column)) for row, column in keys]
    figure = effect_heatmap(_as_ablation(result, [f"L{row}H{column}" for row, column in grid]))
    hover = [[""] * (max(column for _, column in grid) + 1) for _ in rows]
    for index, (row, column) in enumerate(grid):
        hover[row][column] = escaped(_hover(result, index)).replace("\n", "<br>")
    figure.update_traces(hovertext=hover)
    has_places = any(cell.place is not None for cell in result.cells)
    across = "place" if has_places else "head" if result.run.method["axis"] != "layer" else ""
    down = "layer" if result.run.method["axis"] == "layer" or not has_places else "head"
    named = {"tickmode": "array", "tickangle": 0}
    figure.update_xaxes(
        **named, tickvals=[*range(len(columns))], ticktext=[escaped(str(name)) for name in columns], title=across
    )
    figure.update_yaxes(
        **named, tickvals=[*range(len(rows))], ticktext=[escaped(str(name)) for name in rows], title=down
    )
    return figure


def _key(cell: Cell) -> tuple[str, Any]:
    """Row and column of a cell."""
    unit = cell.unit
    if cell.place is not None:
        return (unit.label if unit.layer is None or unit.head is not None else f"L{unit.layer}"), cell.place
    if unit.head is not None:
        return unit.label[: -len(str(unit.head))].removesuffix("KV").removesuffix("H"), unit.head
    return (unit.label if unit.layer is None else f"L{unit.layer}"), ""


def _order(names: Iterable[Any]) -> list[Any]:
    """Each name once: numbers by size, text as it came."""
    found = list(dict.fromkeys(names))
    return sorted(found) if all(isinstance(name, int) for name in found) else found


def _hover(result: PatchResult, index: int) -> str:
    row = result.row(index)
    verdict = "claimed" if row.claimed else "not claimed"
    lines = [
        row.label,
        f"effect {size(result, row)}, interval {interval(row.ci_low, row.ci_high)}",
        f"controls {row.control_mean:+.3g}, {verdict}",
    ]
    return "\n".join([*lines, *([row.note] if row.note else [])])


def _as_ablation(result: PatchResult, labels: list[str]) -> AblationResult:
    """The same effects, intervals and claims under other labels."""
    method = {**result.run.method, "operator": asked(result)}
    run = RunInfo.from_dict({**result.run.to_dict(), "method": method})
    controls = tuple(tuple(labels[index] for index in found) for found in result.controls)
    values = result.clean[None, :] - result.effects
    return AblationResult(run, tuple(labels), result.prompts, result.clean, values, controls, result.drops)
