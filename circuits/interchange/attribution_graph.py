"""Attribution graphs as JSON, in the form that the web front end of circuit-tracer shows.

Fields of `circuit_tracer/frontend/graph_models.py` in safety-research/circuit-tracer: `metadata`, `qParams`, `nodes` and
`links`. A node is a part of the model at one place: heads and MLPs stand where that tool has features, the classes of
positions stand for its tokens. A link sums what a writer does through all inputs of a part; `inputs`, which the front
end passes over, holds each of them with its own score and mark. Query heads that share keys and values take equal shares
of their scores (see `interp.circuits.interchange.twin`).

To be shown, the file lies in the folder of graphs under its own name, and the `metadata` in `graph-metadata.json`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from interp.circuits.files import safe_slug, to_json
from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.interchange.content import Imported, checked, write_text
from interp.circuits.interchange.reading import Field, read_json
from interp.circuits.interchange.twin import DrawnEdges, DrawnScores, Twin
from interp.circuits.receivers import Receiver
from interp.circuits.writes import Part
from interp.kernels.errors import InterpError

SCHEMA = 1
PARTS = ("metadata", "qParams", "nodes", "links")
GENERATOR = {"name": "interp", "version": str(SCHEMA)}
ALL_POSITIONS = "all positions"

Where = tuple[int, int, int]
Ends = tuple[str, str, str]
"""Ids of source and target, and the name of an input."""


def write_attribution_graph(
    path: str | Path, graph: Graph, scores: Scores, edges: Edges | None = None, *, model_name: str, prompt: str = ""
) -> tuple[str, ...]:
    """Write scores, and a circuit where there is one; gives sentences on what the format holds in another form.

    Args:
        path: its name without the ending is the slug of the graph.
        model_name: shown as the `scan`.
        prompt: shown above the graph.

    Raises:
        InterpError: E204 a name that is no slug; E205 a graph with writers that the format does not know; E206, E207 or
            E201 see `checked`; E602 not writable.
    """
    twin = Twin.ungrouped(graph)
    scores, edges = checked(graph, scores, edges)
    content = {
        "metadata": {
            "slug": safe_slug(Path(path).stem),
            "scan": model_name,
            "transcoder_list": [],
            "prompt_tokens": _tokens(graph),
            "prompt": prompt,
            "node_threshold": None,
            "schema_version": SCHEMA,
            "generator": GENERATOR,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(_nodes(twin.drawn)),
        "links": _links(twin.drawn, twin.spread(scores.astype(np.float64)), twin.spread_edges(edges)),
    }
    write_text(path, to_json(content))
    grouped = "scores of edges to shared keys and values are divided equally among their query heads"
    return (grouped,) if twin.is_grouped else ()


def read_attribution_graph(path: str | Path, graph: Graph) -> Imported:
    """Scores (float64) and circuit of a file that `write_attribution_graph` wrote.

    Raises:
        InterpError: E204, E301, E302 or E310 see `read_json`; E702 not a file of ours, or of another version; E303 a field
            is missing or of a wrong type; E201 a node or link that the graph does not have; E205 see above; E206 other
            places.
    """
    twin = Twin.ungrouped(graph)
    file = read_json(path)
    _check_version(file)
    file.only(PARTS)
    tokens = [token.text() for token in file.get("metadata").get("prompt_tokens").elements()]
    if tokens != _tokens(graph):
        file.refuse(f"the file has the places {tokens}, the graph {_tokens(graph)}", code="E206")
    given = [node.get("node_id").text() for node in file.get("nodes").elements()]
    file.get("nodes")._replace(value=given).names([node["node_id"] for node in _nodes(twin.drawn)], "node")
    scores, edges = np.zeros(twin.drawn.full.shape), twin.drawn.none
    missing = {ends: where for where, ends in _edges(twin.drawn)}
    known = set(missing)
    for link in file.get("links").elements():
        for ends, value in _inputs(link, known):
            if ends not in missing:
                link.refuse("this link is there twice")
            where = missing.pop(ends)
            scores[where], edges[where] = value.get("score").number(), value.get("in_circuit").flag()
    if missing:
        first = twin.drawn.label(*next(iter(missing.values())))
        file.get("links").refuse(f"{len(missing)} of {twin.drawn.n_edges} edges are missing, the first {first}")
    notes = ("scores of edges to shared keys and values are the sum over their query heads",) * twin.is_grouped
    return Imported.of(twin.gather(scores), twin.gather_edges(edges), notes)


def _tokens(graph: Graph) -> list[str]:
    """Names of the places, which stand last. One is not enough: the front end drops nodes that stand at more than 2/3 of
    all tokens, and lays columns out by the width of those after the first."""
    return ["", ALL_POSITIONS] if len(graph.places) == 1 else list(graph.places)


def _column(graph: Graph, place: int) -> int:
    """Token at which a place is shown."""
    return place + len(_tokens(graph)) - len(graph.places)


def _writer_id(part: Part, graph: Graph, place: int) -> str:
    """`{layer}_{number}_{column}`: heads by their number, the MLP after them."""
    column = _column(graph, place)
    if part.kind == "embed":
        return f"E_{graph.writer_index[part.label]}_{column}"
    assert part.layer is not None
    return f"{part.layer}_{graph.layers[part.layer].heads if part.head is None else part.head}_{column}"


def _reader_id(reader: Receiver, graph: Graph, place: int) -> str:
    column = _column(graph, place)
    if reader.part == "logits":
        return f"{len(graph.layers) + 1}_0_{column}"
    return f"{reader.layer}_{graph.layers[reader.layer].heads if reader.part == 'mlp' else reader.head}_{column}"


def _nodes(graph: Graph) -> Iterator[dict[str, Any]]:
    """Nodes with every field that their data model asks for."""
    kinds = {"embed": "embedding", "head": "attention head", "mlp": "mlp"}
    for place in range(len(graph.places)):
        for part in graph.writers:
            yield _node(_writer_id(part, graph, place), kinds[part.kind], part.label)
        # Without a label: the front end takes a probability out of the label of a logit, and there is none.
        yield _node(_reader_id(graph.readers[-1], graph, place), "logit", "")


def _node(node_id: str, kind: str, label: str) -> dict[str, Any]:
    layer, number, column = node_id.split("_")
    return {
        "node_id": node_id,
        "feature": int(number),
        "layer": layer,
        "ctx_idx": int(column),
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": kind == "logit",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{number}-{column}",
        "clerp": label,
        "influence": None,
        "activation": None,
    }


def _edges(graph: Graph) -> Iterator[tuple[Where, Ends]]:
    """Every edge: its place, writer and reader, and its ends."""
    for place, writer, reader in np.argwhere(graph.full).tolist():
        part, receiver = graph.writers[writer], graph.readers[reader]
        ends = _writer_id(part, graph, place), _reader_id(receiver, graph, place), receiver.part
        yield (place, writer, reader), ends


def _links(graph: Graph, scores: DrawnScores, edges: DrawnEdges) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for where, (source, target, name) in _edges(graph):
        value = {"score": float(scores[where]), "in_circuit": bool(edges[where])}
        found.setdefault((source, target), {})[name] = value
    return [
        {"source": source, "target": target, "weight": _weight(inputs.values()), "inputs": inputs}
        for (source, target), inputs in found.items()
    ]


def _weight(inputs: Iterable[Mapping[str, Any]]) -> float:
    """Sum over the inputs of a link, in whatever order they are (E207)."""
    try:
        return math.fsum(value["score"] for value in inputs)
    except OverflowError as error:
        raise InterpError("E207", "a sum of scores is too large for a float", fix="scale the scores down") from error


def _inputs(link: Field, known: Set[Ends]) -> Iterator[tuple[Ends, Field]]:
    """Ends and fields of each input of a link, once all of them are checked."""
    link.only(("source", "target", "weight", "inputs"))
    source, target = link.get("source").text(), link.get("target").text()
    inputs = dict(link.get("inputs").items())
    for name, value in inputs.items():
        value.only(("score", "in_circuit"))
        value.get("score").number()
        if (source, target, name) not in known:
            link.refuse(f"no input {name[:80]!r} from {source[:80]!r} to {target[:80]!r}", code="E201")
    total = _weight(value.fields() for value in inputs.values())
    if link.get("weight").number() != total:
        link.refuse(
            f"its weight is not {total}, the sum over its inputs", fix="change the scores of the inputs as well"
        )
    yield from (((source, target, name), value) for name, value in inputs.items())


def _check_version(file: Field) -> None:
    metadata = file.get("metadata").fields()
    if (metadata.get("generator"), metadata.get("schema_version")) != (GENERATOR, SCHEMA):
        fix = "read a file that write_attribution_graph of this version wrote"
        file.refuse("not an attribution graph of this version of interp", code="E702", fix=fix)
