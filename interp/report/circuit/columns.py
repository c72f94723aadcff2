"""How wide the nodes of a picture are, and where they and the lines stand across, place by place."""

from __future__ import annotations

from itertools import pairwise
from textwrap import wrap

from interp.report.circuit.nodes import Drawing, Node
from interp.report.circuit.order import Bond, Column, across
from interp.report.text import visible

ROUTED = 1500
"""With more lines than that they go straight, behind the nodes in their way."""

GUTTER, BETWEEN = 74.0, 44.0
"""Room for the names of layers, and between columns."""

APART, LANES, WIDE = 20.0, (3.0, 9.0), 6.0
"""Room between nodes, the least and most that a weak line takes where it passes, and how much more the strongest takes."""

LETTER, SMALL, LEAST = 8.4, 6.3, 54.0
"""Width of a letter of a label and of a role, and of the narrowest node."""

LETTERS, LINES, NAME = 16, 2, 24
"""Of a role that is written into a node: letters of a line, and lines; letters of a name."""

LINK = "link"


def shown_name(name: str) -> str:
    """A label or a place as far as it is written."""
    return wrap(visible(name), NAME, max_lines=1, placeholder="…")[0] if name.strip() else name


def shown_role(node: Node) -> list[str]:
    """Lines of the role that are written into the node; what a head reads elsewhere does not say it again."""
    if node.kind == "kv" and node.place:
        return []
    return wrap(visible(node.role), LETTERS, max_lines=LINES, placeholder="…")


def slots(drawing: Drawing, index: int) -> list[str]:
    """In-ports of a node from left to right: q, k and v, and what its own keys and values give it."""
    linked = any(target == index for _, target in drawing.links)
    return [*drawing.nodes[index].parts, *([LINK] if linked else [])]


def port(names: list[str], name: str, width: float) -> float:
    """How far to the right of the middle of a node an in-port is."""
    return (names.index(name) + 0.5) * width / len(names) - width / 2 if name in names else 0.0


def node_width(node: Node) -> float:
    """Room for the label and the role."""
    return max(
        LEAST, LETTER * len(shown_name(node.label)) + 22, SMALL * max(map(len, shown_role(node)), default=0) + 18
    )


def columns_of(
    drawing: Drawing, rows: list[tuple[int, int]]
) -> tuple[list[float], list[list[float]], list[tuple[float, float]]]:
    """Middles of the nodes, where each line passes the rows between its ends, and the ends of the columns."""
    middles = [0.0] * len(drawing.nodes)
    passes: list[list[float]] = [[] for _ in drawing.lines]
    columns: list[tuple[float, float]] = []
    left = GUTTER
    for place in range(len(drawing.places)):
        column, nodes, chains = _column(drawing, rows, place)
        x = across(column) + left
        for item, node in enumerate(nodes):
            middles[node] = float(x[item])
        for number, chain in chains.items():
            passes[number] = [float(x[item]) for item in chain]
        right = max(
            (float(x[item]) + column.widths[item] / 2 for row in column.rows for item in row), default=left + LEAST
        )
        columns.append((left, right))
        left = right + BETWEEN
    return middles, passes, columns


def _column(
    drawing: Drawing, rows: list[tuple[int, int]], place: int
) -> tuple[Column, list[int], dict[int, list[int]]]:
    """What stands at a place: the nodes first, then where lines pass; nodes by item; items that a line passes."""
    nodes = [index for index, node in enumerate(drawing.nodes) if node.spot.place == place]
    item_of = {node: item for item, node in enumerate(nodes)}
    level = {row: number for number, row in enumerate(rows)}
    lane = min(LANES[1], max(LANES[0], 640 / max(len(drawing.lines), 1)))
    most = max((line.share for line in drawing.lines), default=0.0) or 1.0
    widths = [node_width(drawing.nodes[node]) + APART for node in nodes]
    items: list[list[int]] = [[] for _ in rows]
    for item, node in enumerate(nodes):
        items[level[drawing.nodes[node].row]].append(item)
    bonds: list[Bond] = []
    chains: dict[int, list[int]] = {}
    for number, line in enumerate(drawing.lines):
        if line.source not in item_of or len(drawing.lines) > ROUTED:
            continue
        first, last = (level[drawing.nodes[end].row] for end in (line.source, line.target))
        chains[number] = list(range(len(widths), len(widths) + last - first - 1))
        widths += [lane + WIDE * line.share / most] * (last - first - 1)
        for between, item in zip(range(first + 1, last), chains[number], strict=True):
            items[between].append(item)
        shift = port(slots(drawing, line.target), line.part, node_width(drawing.nodes[line.target]))
        *steps, last_step = pairwise([item_of[line.source], *chains[number], item_of[line.target]])
        bonds += [*(Bond(low, high) for low, high in steps), Bond(*last_step, shift)]
    for low, high in drawing.links:
        if low in item_of and high in item_of:
            bonds.append(Bond(item_of[low], item_of[high]))
    levels = tuple(map(tuple, items))
    return Column(levels, tuple(widths), tuple(bonds), tuple(map(tuple, chains.values()))), nodes, chains
