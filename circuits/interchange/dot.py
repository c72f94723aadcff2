"""DOT, the language of Graphviz: text to draw or to look at. Written alone; read GraphML back instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.interchange.content import checked, write_text
from interp.circuits.interchange.parts import joints, lines, nodes

SHAPES = {"embed": "box", "mlp": "box", "logits": "box", "head": "ellipse"}


def write_dot(
    path: str | Path, graph: Graph, scores: Scores, edges: Edges | None = None, *, circuit_only: bool = False
) -> None:
    """Write nodes and edges with `score` and `in_circuit`; edges outside the circuit are dotted.

    Args:
        circuit_only: leave out the edges outside the circuit, and nodes that then have none; for pictures.

    Raises:
        InterpError: E206, E207 or E201 see `checked`; E602 not writable.
    """
    scores, edges = checked(graph, scores, edges)
    text = "\n".join(["digraph circuit {", "  rankdir=BT;", *_body(graph, scores, edges, circuit_only), "}", ""])
    write_text(path, text)


def _body(graph: Graph, scores: Scores, edges: Edges, circuit_only: bool) -> Iterator[str]:
    drawn = [line for line in lines(graph, scores, edges) if line.in_circuit or not circuit_only]
    used = {end for line in drawn for end in (line.source, line.target)}
    for node in nodes(graph):
        if node.name in used or not circuit_only:
            yield f"  {_quoted(node.name)} [kind={node.kind}, shape={SHAPES.get(node.kind, 'plaintext')}];"
    for source, target in joints(graph):
        if {source, target} <= used or not circuit_only:
            yield f"  {_quoted(source)} -> {_quoted(target)} [arrowhead=none];"
    for line in drawn:
        style = "solid" if line.in_circuit else "dotted"
        values = f"score={_quoted(repr(line.score))}, in_circuit={str(line.in_circuit).lower()}, style={style}"
        yield f"  {_quoted(line.source)} -> {_quoted(line.target)} [{values}];"


def _quoted(text: str) -> str:
    """A quoted name: quotes and backslashes would end it or be read as codes in its label."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
