"""Where everything in the picture of a circuit stands: rows by height in the model, columns by place.

The embeddings are at the bottom and the logits on top. In a layer heads stand below the MLP, and keys and values that are
nodes of their own below the heads. Lines stay in their column, because an edge joins what stands at one place; only what
moves inside heads crosses from column to column. Lengths are units of the SVG: pixels, where it is not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from interp.report.circuit.columns import GUTTER, columns_of, node_width, shown_role
from interp.report.circuit.nodes import Drawing, Node
from interp.report.circuit.routes import Box, Points, Span, links_of, routes_of

RIM = 18.0
"""Room above and below everything, and on the right."""

HEIGHT, ROLE, GAPS, SLOPE = 34.0, 13.0, (38.0, 80.0), 0.13
"""Of a node, of a line of its role, and between rows: the more, the further lines move to the side there."""

FAR = 160.0
"""How far what moves inside heads counts at most there: it may go through the whole picture."""


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        boxes: of the nodes.
        routes: of the lines, from the bottom: a curve to every second point, straight on to the next.
        links: likewise.
        layers: layer -> top and bottom of its rows.
        columns: left and right end of each place.
        width, height: of the whole.
    """

    boxes: tuple[Box, ...]
    routes: tuple[Points, ...]
    links: tuple[Points, ...]
    layers: dict[int, Span]
    columns: tuple[Span, ...]
    width: float
    height: float


def laid_out(drawing: Drawing) -> Layout:
    """The layout of a drawing."""
    rows = sorted({node.row for node in drawing.nodes})
    middles, passes, columns = columns_of(drawing, rows)
    heights = _heights(drawing, rows, _sideways(drawing, rows, middles, passes))
    boxes = tuple(_box(node, middle, *heights[node.row]) for node, middle in zip(drawing.nodes, middles, strict=True))
    layers: dict[int, Span] = {}
    for (layer, _), (top, bottom) in heights.items():  # from the top
        layers[layer] = (layers.get(layer, (top, bottom))[0], bottom)
    return Layout(
        boxes,
        routes_of(drawing, boxes, heights, passes),
        links_of(drawing, boxes),
        layers,
        tuple(columns),
        width=max((right for _, right in columns), default=GUTTER) + RIM,
        height=max((bottom for _, bottom in heights.values()), default=HEIGHT) + RIM,
    )


def _box(node: Node, middle: float, top: float, bottom: float) -> Box:
    width = node_width(node)
    return Box(middle - width / 2, top, width, bottom - top)


def _sideways(
    drawing: Drawing, rows: list[tuple[int, int]], middles: list[float], passes: list[list[float]]
) -> list[float]:
    """How far a line moves to the side above each row, at most."""
    found = [0.0] * len(rows)
    for line, passing in zip(drawing.lines, passes, strict=True):
        first = rows.index(drawing.nodes[line.source].row)
        steps = pairwise([middles[line.source], *passing, middles[line.target]])
        for row, (low, high) in enumerate(steps, first):
            found[row] = max(found[row], abs(high - low))
    for low, high in drawing.links:
        row = rows.index(drawing.nodes[low].row)
        found[row] = max(found[row], min(abs(middles[high] - middles[low]), FAR))
    return found


def _heights(drawing: Drawing, rows: list[tuple[int, int]], sideways: list[float]) -> dict[tuple[int, int], Span]:
    """Top and bottom of every row, from the highest down."""
    lines = dict.fromkeys(rows, 0)
    for node in drawing.nodes:
        lines[node.row] = max(lines[node.row], len(shown_role(node)))
    found: dict[tuple[int, int], Span] = {}
    top = RIM
    for index in reversed(range(len(rows))):
        top += min(GAPS[1], GAPS[0] + SLOPE * sideways[index]) if found else 0
        bottom = top + HEIGHT + ROLE * lines[rows[index]]
        found[rows[index]] = (top, bottom)
        top = bottom
    return found
