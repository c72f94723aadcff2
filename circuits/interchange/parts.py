"""Nodes and lines of a graph as one draws it: a node is what writes or what reads, at one place.

An edge goes from a writer to a reader at the same place. A part joins its readers to its writer: `L1H0.q`, `L1H0.k` and
`L1H0.v` lead to `L1H0`, keys and values from every place. An MLP is one node, reader and writer in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from interp.circuits.graph.graph import Edges, Graph, Scores


class Node(NamedTuple):
    """A writer, a reader, or both. `name` is its label with its place, `layer` -1 outside the layers."""

    name: str
    label: str
    kind: str
    layer: int
    place: str


class Line(NamedTuple):
    """An edge that can be in a circuit; `where` is its place, writer and reader."""

    name: str
    source: str
    target: str
    score: float
    in_circuit: bool
    where: tuple[int, int, int]


def nodes(graph: Graph) -> list[Node]:
    """Every node once, in the order of computation: what a layer reads before what it writes."""
    found: dict[str, Node] = {}
    for place in graph.places:
        for label, kind, layer in _parts(graph):
            found.setdefault(_at(label, place), Node(_at(label, place), label, kind, layer, place))
    return list(found.values())


def lines(graph: Graph, scores: Scores, edges: Edges) -> Iterator[Line]:
    """Every edge of the graph, in the order of `Graph.labels`."""
    for place, writer, reader in np.argwhere(graph.full).tolist():
        name, where = graph.places[place], (place, writer, reader)
        source, target = _at(graph.writers[writer].label, name), _at(graph.readers[reader].label, name)
        yield Line(graph.label(*where), source, target, float(scores[where]), bool(edges[where]), where)


def joints(graph: Graph) -> Iterator[tuple[str, str]]:
    """Source and target of what joins the readers of a head to its writer."""
    for part in graph.writers:
        readers = [graph.readers[index] for index in graph.inputs_of(part) if part.kind == "head"]
        for place in graph.places:
            for reader in readers:
                for origin in (place,) if reader.part == "q" else graph.places:
                    yield _at(reader.label, origin), _at(part.label, place)


def _parts(graph: Graph) -> list[tuple[str, str, int]]:
    """Label, kind and layer of readers and writers, layer by layer."""
    readers = [(one.label, one.part, one.layer) for one in graph.readers]
    writers = [(part.label, part.kind, -1 if part.layer is None else part.layer) for part in graph.writers]
    n_layers = len(graph.layers)
    ranked = [(n_layers if kind == "logits" else layer, kind == "mlp", number) for number, (_, kind, layer) in
              enumerate(readers + writers)]  # fmt: skip
    return [(readers + writers)[number] for _, _, number in sorted(ranked)]


def _at(label: str, place: str) -> str:
    return f"{label}@{place}" if place else label
