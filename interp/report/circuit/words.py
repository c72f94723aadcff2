"""What the picture of a circuit says about a node or a line that is pointed at."""

from __future__ import annotations

from collections.abc import Sequence

from interp.circuits.tables import listed, number
from interp.report.circuit.nodes import QKV, Drawing, Line, Node

TOLD = 6
"""Lines that a node names before it counts the others."""


def line_text(drawing: Drawing, line: Line) -> str:
    """What an edge is, in lines."""
    source, target = drawing.nodes[line.source], drawing.nodes[line.target]
    effect = f"score {number(line.score, signed=True)}: {'hurts' if line.score < 0 else 'helps'}"
    several = [f"{len(line.edges)} edges: {listed(line.edges)}"] if len(line.edges) > 1 else []
    share = f"{number(100 * line.share)} % of the circuit"
    return "\n".join([f"{source.label} → {target.label}{_port(line)}{_where(target)}", effect, share, *several])


def node_text(drawing: Drawing, index: int) -> str:
    """What a node is, and its strongest edges, in lines."""
    node = drawing.nodes[index]
    into = [
        f"{drawing.nodes[line.source].label}{_port(line, ' ({})')}" for line in drawing.lines if line.target == index
    ]
    scores = [line.score for line in drawing.lines if line.target == index]
    found = [f"{node.label}{_where(node)}", node.role, node.note, _told("in", into, scores)]
    out = [f"{drawing.nodes[line.target].label}{_port(line)}" for line in drawing.lines if line.source == index]
    scores = [line.score for line in drawing.lines if line.source == index]
    return "\n".join(filter(None, [*found, _told("out", out, scores)]))


def _where(node: Node) -> str:
    return f" at {node.place}" if node.place else ""


def _port(line: Line, form: str = ".{}") -> str:
    """Which of the in-ports of a head a line enters; '' elsewhere."""
    return form.format(line.part) if line.part in QKV else ""


def _told(side: str, names: Sequence[str], scores: Sequence[float]) -> str:
    """One side of a node: names and scores of the strongest, and how many more there are; '' where there is none."""
    found = [f"{name} {number(score, signed=True)}" for name, score in zip(names[:TOLD], scores, strict=False)]
    more = [f"and {len(names) - TOLD} more"] if len(names) > TOLD else []
    return f"{side}: {', '.join([*found, *more])}" if names else ""
