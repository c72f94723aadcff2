"""The ways that lines take: side by side where they leave and enter a node, upright where they pass a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from interp.report.circuit.columns import LINK, port, slots
from interp.report.circuit.nodes import Drawing, Line

Points = tuple[tuple[float, float], ...]
Span = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """Where a node stands: left, top, width and height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


def routes_of(
    drawing: Drawing, boxes: tuple[Box, ...], heights: dict[tuple[int, int], Span], passes: list[list[float]]
) -> tuple[Points, ...]:
    """The way of each line.

    Args:
        boxes: of the nodes.
        heights: top and bottom of each row.
        passes: where each line passes the rows between its ends; nowhere, where it goes straight.
    """
    outs, ins = _fans(drawing, boxes, passes)
    return tuple(
        (
            (outs[number], boxes[line.source].y),
            *_upright(drawing, line, heights, passes[number]),
            (ins[number], boxes[line.target].bottom),
        )
        for number, line in enumerate(drawing.lines)
    )


def links_of(drawing: Drawing, boxes: tuple[Box, ...]) -> tuple[Points, ...]:
    """The way from keys and values to the head that moves them."""
    ends = [
        (boxes[low], boxes[high], port(slots(drawing, high), LINK, boxes[high].width)) for low, high in drawing.links
    ]
    return tuple(((low.middle, low.y), (high.middle + shift, high.bottom)) for low, high, shift in ends)


def _upright(
    drawing: Drawing, line: Line, heights: dict[tuple[int, int], Span], passing: list[float]
) -> Iterator[tuple[float, float]]:
    """Bottom and top of each row that a line passes."""
    source, target = drawing.nodes[line.source].row, drawing.nodes[line.target].row
    between = [heights[row] for row in sorted(heights) if source < row < target]
    for x, (top, bottom) in zip(passing, between, strict=bool(passing)):
        yield from ((x, bottom), (x, top))


def _fans(drawing: Drawing, boxes: tuple[Box, ...], passes: list[list[float]]) -> tuple[list[float], list[float]]:
    """Where on its source a line starts and on its target ends: side by side, in the order in which they come."""
    outs, ins = [0.0] * len(drawing.lines), [0.0] * len(drawing.lines)
    leaving: dict[int, list[int]] = defaultdict(list)
    entering: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, line in enumerate(drawing.lines):
        leaving[line.source].append(number)
        entering[line.target, line.part].append(number)
    for node, numbers in leaving.items():
        numbers.sort(key=lambda n: passes[n][0] if passes[n] else boxes[drawing.lines[n].target].middle)
        _fan(outs, numbers, boxes[node].middle, 0.6 * boxes[node].width)
    for (node, part), numbers in entering.items():
        numbers.sort(key=lambda n: passes[n][-1] if passes[n] else boxes[drawing.lines[n].source].middle)
        box, names = boxes[node], slots(drawing, node)
        room = 0.4 * box.width / len(names) if part in names else 0.7 * box.width
        _fan(ins, numbers, box.middle + port(names, part, box.width), room)
    return outs, ins


def _fan(places: list[float], numbers: list[int], middle: float, room: float) -> None:
    for rank, number in enumerate(numbers):
        places[number] = middle + (room * (rank / (len(numbers) - 1) - 0.5) if len(numbers) > 1 else 0.0)
