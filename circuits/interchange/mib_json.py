"""Importance files of the MIB benchmark as JSON: `{"cfg", "nodes": {name: ...}, "edges": {"u->v<q>": ...}}`.

Layout of `Graph.to_json` in hannamw/EAP-IG, `src/eap/graph.py`, which MIB uses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from interp.circuits.files import to_json
from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.interchange.content import Imported, checked, write_text
from interp.circuits.interchange.mib import MibLayout
from interp.circuits.interchange.reading import Field, read_json

NODE_SCORES = "scores of nodes are not read"
NEURONS = "neurons are not read: an edge that is in the circuit for some of them is read as a whole one"


def write_mib_json(
    path: str | Path, graph: Graph, scores: Scores, edges: Edges | None = None, *, d_model: int, model_name: str = ""
) -> tuple[str, ...]:
    """Write scores, and a circuit where there is one; gives sentences on what the format holds in another form.

    Args:
        d_model: width of the residual stream, which their reader asks for.

    Raises:
        InterpError: E205 a graph that the format cannot hold; E206, E207 or E201 see `checked`; E602 not writable.
    """
    layout = MibLayout.of(graph)
    scores, edges = checked(graph, scores, edges)
    values, marked = layout.twin.spread(scores.astype(np.float64))[0], layout.twin.spread_edges(edges)
    in_graph = layout.nodes_in_graph(marked)
    nodes = {name: {"in_graph": bool(flag)} for name, flag in zip(layout.writers, in_graph, strict=True)}
    named = {
        name: {"score": float(values[where]), "in_graph": bool(marked[0][where])}
        for name, where in _edge_places(layout).items()
    }
    content = {"cfg": layout.cfg(d_model, model_name), "nodes": {**nodes, "logits": {"in_graph": True}}, "edges": named}
    write_text(path, to_json(content))
    return layout.notes("write")


def read_mib_json(path: str | Path, graph: Graph) -> Imported:
    """Scores (float64) and circuit of a file, on our graph of the same model.

    Every node and edge must be there; scores of edges must be finite. Scores of nodes, which may be NaN, are not read.

    Raises:
        InterpError: E204, E301, E302 or E310 see `read_json`; E303 a field is missing, unknown or of a wrong type;
            E201 a node or edge that the graph does not have; E205 and E206 a graph of another form.
    """
    layout = MibLayout.of(graph)
    file = read_json(path)
    file.only(("cfg", "nodes", "edges"))
    layout.check_cfg(file.get("cfg"))
    places = _edge_places(layout)
    file.get("nodes").names((*layout.writers, "logits"), "node")
    file.get("edges").names(places, "edge")
    seen = {name for _, node in file.get("nodes").items() for name in _node_fields(node)}
    scores, edges = np.zeros(layout.drawn.full.shape), layout.drawn.none
    for name, edge in file.get("edges").items():
        edge.only(("score", "in_graph"))
        scores[0][places[name]] = edge.get("score").number()
        edges[0][places[name]] = edge.get("in_graph").flag()
    notes = {NODE_SCORES: "score" in seen, NEURONS: not seen.isdisjoint(("neurons", "neurons_scores"))}
    return layout.read(scores, edges, notes, file)


def _edge_places(layout: MibLayout) -> dict[str, tuple[int, int]]:
    """Writer and reader of their edges, by name."""
    where = np.argwhere(layout.drawn.exists)
    return {
        f"{layout.writers[writer]}->{layout.readers[reader]}": (int(writer), int(reader)) for writer, reader in where
    }


def _node_fields(node: Field) -> set[str]:
    """Names of the fields of a node, after a check of their types."""
    node.only(("in_graph",), ("score", "neurons", "neurons_scores"))
    node.get("in_graph").flag()
    fields = node.fields()
    if fields.get("score") is not None:
        node.get("score").number(may_be_nan=True)
    for key in ("neurons", "neurons_scores"):
        if key in fields:
            node.get(key).sequence()
    return set(fields)
