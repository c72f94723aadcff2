"""What the picture of a circuit shows: its nodes, the lines between them, and what moves inside heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.tables import counted
from interp.kernels.errors import InterpError, suggest
from interp.report.circuit.spots import ALL, Places, Spot

MOST_NODES = 120
"""With more than that many nodes, the heads of a layer become one."""

QKV = "qkv"
Where = tuple[int, int, int]
"""Place, writer and reader of an edge."""


@dataclass(frozen=True)
class Node:
    """A node of the drawing.

    Attributes:
        spot: where it belongs.
        kind: of `STAGES`.
        label: its name; for heads drawn as one, how many.
        place: name of the class of positions, '' where there is one class only.
        role: what it does, in a few words.
        note: further text about it.
        parts: which of q, k and v it has an in-port for.
    """

    spot: Spot
    kind: str
    label: str
    place: str = ""
    role: str = ""
    note: str = ""
    parts: str = ""

    @property
    def row(self) -> tuple[int, int]:
        return self.spot.layer, self.spot.stage

    @property
    def name(self) -> str:
        return f"{self.label}@{self.place}" if self.place else self.label


@dataclass(frozen=True)
class Line:
    """An edge, or the edges of equal sign between heads that are drawn as one.

    Attributes:
        source, target: indices of nodes.
        part: what it enters: 'q', 'k', 'v', 'mlp' or 'logits'.
        score: sum over its edges.
        share: of the sum of all magnitudes in the circuit.
        edges: names.
    """

    source: int
    target: int
    part: str
    score: float
    share: float
    edges: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """Everything there is to lay out.

    Attributes:
        nodes: by place, from the embeddings up.
        lines: the strongest first.
        links: keys and values, the head that moves what they hold.
        places: names of the columns.
        n_edges, of: edges of the circuit, and of the graph.
    """

    nodes: tuple[Node, ...]
    lines: tuple[Line, ...]
    links: tuple[tuple[int, int], ...]
    places: tuple[str, ...]
    n_edges: int
    of: int


def drawing(
    graph: Graph,
    scores: Scores,
    edges: Edges,
    roles: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    together: bool | None = None,
) -> Drawing:
    """The nodes and lines of a circuit.

    Args:
        scores: of all edges; positive: the edge helps.
        edges: the circuit.
        roles, notes: by the label of a node: `L1H2`, `L1KV0`, `M1`, `embed`, `logits`.
        together: draw the heads of a layer as one node; None does so above `MOST_NODES` nodes.

    Raises:
        InterpError: E206 scores or edges of another shape; E207 an edge of the circuit has no finite score; E201 a role or
            note for no node of the graph.
    """
    roles, notes = dict(roles or {}), dict(notes or {})
    _check(graph, scores, edges, (*roles, *notes))
    found = [(int(place), int(writer), int(reader)) for place, writer, reader in zip(*np.nonzero(edges), strict=True)]
    places = Places(graph, merged=bool(together))
    met = {spot for edge in found for spot in places.ends(*edge)}
    if together is None and len(met) > MOST_NODES:
        places = replace(places, merged=True)
    return _made(places, scores, found, roles, notes)


def _check(graph: Graph, scores: Scores, edges: Edges, named: tuple[str, ...]) -> None:
    for what, given in (("scores", scores), ("edges", edges)):
        if given.shape != graph.full.shape:
            raise InterpError("E206", f"{what} of shape {given.shape}; the graph has {graph.full.shape}")
    if stray := (edges & ~graph.full).sum():
        raise InterpError("E206", f"{counted(int(stray), 'edge')} of the circuit not in the graph")
    if not np.isfinite(scores[edges]).all():
        first = graph.labels(edges & ~np.isfinite(scores))[0]
        raise InterpError("E207", "an edge of the circuit has no finite score", where=first)
    known = {label for _, label in Places(graph, merged=False).labels()}
    for name in named:
        if name not in known:
            raise InterpError("E201", f"no node is called {name!r}", fix=suggest(name, known))


def _made(places: Places, scores: Scores, found: list[Where], roles: dict[str, str], notes: dict[str, str]) -> Drawing:
    graph = places.graph
    groups: dict[tuple[Spot, Spot, str, bool], list[Where]] = defaultdict(list)
    heads: dict[Spot, set[int]] = defaultdict(set)
    parts: dict[Spot, set[str]] = defaultdict(set)
    for edge in found:
        source, target = places.ends(*edge)
        reader, writer = graph.readers[edge[2]], graph.writers[edge[1]]
        groups[source, target, reader.part, bool(scores[edge] < 0)].append(edge)
        heads[source].add(writer.head or 0)
        heads[target].add(reader.head)
        parts[target] |= {reader.part} & set(QKV)
    order = sorted(heads)
    index = {spot: number for number, spot in enumerate(order)}
    names = dict(places.labels())
    nodes = [_node(places, spot, names.get(replace(spot, place=0), ""), heads[spot], parts[spot]) for spot in order]
    said = [replace(node, role=roles.get(node.label, ""), note=notes.get(node.label, node.note)) for node in nodes]
    total = sum(abs(float(scores[edge])) for edge in found) or 1.0
    lines = [
        _line(graph, index[source], index[target], part, group, scores, total)
        for (source, target, part, _), group in groups.items()
    ]
    lines.sort(key=lambda line: (-line.share, line.source, line.target, line.part, line.score))
    links = [(index[one], index[other]) for one in order for other in order if places.moves(one, other)]
    return Drawing(tuple(said), tuple(lines), tuple(links), graph.places, len(found), graph.n_edges)


def _line(graph: Graph, source: int, target: int, part: str, group: list[Where], scores: Scores, total: float) -> Line:
    values = [float(scores[edge]) for edge in group]
    share = sum(map(abs, values)) / total
    return Line(source, target, part, sum(values), share, tuple(graph.label(*edge) for edge in group))


def _node(places: Places, spot: Spot, label: str, heads: set[int], parts: set[str]) -> Node:
    """A node without what others say about it; heads drawn as one are counted, and named in the note."""
    graph, kind = places.graph, places.kind(spot)
    place, shown = graph.places[spot.place], "".join(part for part in QKV if part in parts)
    if spot.head != ALL:
        return Node(spot, kind, label, place, parts=shown)
    shape = graph.layers[spot.layer]
    shared = kind == "kv" and shape.kv_heads != shape.heads
    members = ", ".join(f"L{spot.layer}{'KV' if shared else 'H'}{head}" for head in sorted(heads))
    label = f"L{spot.layer}: {counted(len(heads), 'KV head' if shared else 'head')}"
    return Node(spot, kind, label, place, note=members, parts=shown)
