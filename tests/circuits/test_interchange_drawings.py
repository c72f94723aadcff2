"""Attribution graphs, GraphML and DOT: what other programs find in them, and numbers that come back unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from interp.circuits.graph.graph import Graph, LayerShape
from interp.circuits.interchange.attribution_graph import read_attribution_graph, write_attribution_graph
from interp.circuits.interchange.content import UNMARKED, Imported
from interp.circuits.interchange.dot import write_dot
from interp.circuits.interchange.graphml import read_graphml, write_graphml
from interp.kernels.errors import InterpError

MIXED = [LayerShape(4, 2), LayerShape(3, 3, is_parallel=True), LayerShape(2, 1, has_mlp=False)]
GRAPHS = {
    "gpt2": Graph.of_shape([LayerShape(12, 12)] * 2, ["embed", "pos_embed"]),
    "gqa": Graph.of_shape([LayerShape(6, 2)] * 2),
    "parallel": Graph.of_shape([LayerShape(4, 4, is_parallel=True)] * 2),
    "mixed": Graph.of_shape(MIXED),
    "places": Graph.of_shape(MIXED).at_places(["subject", "end", 'odd "<&>\\ \u00e9\n']),
}
NODE = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
    "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str,
    "influence": type(None), "activation": type(None),
}  # fmt: skip
"""Fields of `Node` in `circuit_tracer/frontend/graph_models.py`."""


def content(graph: Graph, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=graph.full.shape) * 10.0 ** rng.integers(-30, 20, graph.full.shape)
    return np.where(graph.full, scores, 0).astype(dtype), graph.full & (rng.random(graph.full.shape) < 0.3)


def by_graphml(path: Path, graph: Graph, scores: np.ndarray, edges: np.ndarray | None) -> Imported:
    write_graphml(path / "x.graphml", graph, scores, edges)
    return read_graphml(path / "x.graphml", graph)


def by_attribution_graph(path: Path, graph: Graph, scores: np.ndarray, edges: np.ndarray | None) -> Imported:
    write_attribution_graph(path / "x.json", graph, scores, edges, model_name="tiny")
    return read_attribution_graph(path / "x.json", graph)


def attribution_graph(path: Path, graph: Graph) -> dict[str, Any]:
    write_attribution_graph(path / "x.json", graph, *content(graph), model_name="tiny", prompt="a prompt")
    return json.loads((path / "x.json").read_text("utf-8"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("through", [by_graphml, by_attribution_graph])
def test_what_is_written_comes_back_exactly(
    through: Callable[..., Imported], name: str, dtype: Any, tmp_path: Path
) -> None:
    scores, edges = content(GRAPHS[name], dtype)
    found = through(tmp_path, GRAPHS[name], scores, edges)
    assert np.array_equal(found.scores, scores)
    assert found.edges is not None and np.array_equal(found.edges, edges)
    alone = through(tmp_path, GRAPHS[name], scores, None)
    assert alone.edges is None and alone.notes[-1] == UNMARKED


@pytest.mark.parametrize("name", GRAPHS)
def test_attribution_graphs_have_the_fields_of_the_front_end(name: str, tmp_path: Path) -> None:
    data = attribution_graph(tmp_path, GRAPHS[name])
    assert data.keys() == {"metadata", "qParams", "nodes", "links"}
    metadata, given = data["metadata"], ("slug", "scan", "prompt", "transcoder_list", "schema_version")
    assert [metadata[key] for key in given] == ["x", "tiny", "a prompt", [], 1]
    expected = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    assert data["qParams"] == expected
    for node in data["nodes"]:
        assert {key: type(value) for key, value in node.items()} == NODE
        assert 0 <= node["ctx_idx"] < len(metadata["prompt_tokens"])
    for key in ("node_id", "jsNodeId"):
        assert len({node[key] for node in data["nodes"]}) == len(data["nodes"])
    ids = {node["node_id"] for node in data["nodes"]}
    pairs = [(link["source"], link["target"]) for link in data["links"]]
    assert len(set(pairs)) == len(pairs) and {end for pair in pairs for end in pair} <= ids


@pytest.mark.parametrize("name", GRAPHS)
def test_the_front_end_keeps_every_node(name: str, tmp_path: Path) -> None:
    """It deletes what occurs at more than 2/3 of the tokens, spaces nodes by the columns that stand after the first, and
    takes a probability out of a logit's label."""
    data = attribution_graph(tmp_path, GRAPHS[name])
    features = [f"{node['layer']}_{node['feature']}_{node['ctx_idx']}" for node in data["nodes"]]
    assert max(map(features.count, features)) <= len(data["metadata"]["prompt_tokens"]) * 2 / 3
    assert max(node["ctx_idx"] for node in data["nodes"]) >= 1
    assert all("(p=" in node["clerp"] or not node["clerp"] for node in data["nodes"] if node["feature_type"] == "logit")


def test_links_sum_what_a_part_reads(tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(2, 2)] * 2).at_places(["subject", "end"])
    scores, _ = content(graph, np.float64)
    data = attribution_graph(tmp_path, graph)
    labels = {node["node_id"]: (node["clerp"], node["ctx_idx"]) for node in data["nodes"]}
    scores = scores.astype(np.float32).astype(np.float64)
    seen = set()
    for link in data["links"]:
        (source, place), (target, other) = labels[link["source"]], labels[link["target"]]
        assert place == other
        inputs = {"q", "k", "v"} & link["inputs"].keys()
        names = {f"{target}.{name}": name for name in inputs} or {target or "logits": next(iter(link["inputs"]))}
        places = {graph.edge(f"{source}->{reader}@{graph.places[place]}"): key for reader, key in names.items()}
        assert {where: link["inputs"][key]["score"] for where, key in places.items()} == {w: scores[w] for w in places}
        assert link["weight"] == pytest.approx(sum(scores[where] for where in places), rel=1e-12)
        seen |= set(places)
    assert seen == set(map(tuple, np.argwhere(graph.full).tolist()))


def test_graphml_is_what_its_schema_says(tmp_path: Path) -> None:
    """Read by another parser, as other programs do."""
    graph = GRAPHS["places"]
    scores, edges = content(graph)
    write_graphml(tmp_path / "x", graph, scores, edges)
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    root = ElementTree.parse(tmp_path / "x").getroot()
    keys = {key.get("id"): key.get("for") for key in root.iterfind("g:key", space)}
    nodes = [node.get("id") for node in root.iterfind("g:graph/g:node", space)]
    n_parts = len({part.label for part in graph.writers} | {reader.label for reader in graph.readers})
    assert len(set(nodes)) == len(nodes) == n_parts * len(graph.places)
    found: dict[str, tuple[float, str]] = {}
    for edge in root.iterfind("g:graph/g:edge", space):
        data = {one.get("key"): one.text for one in edge.iterfind("g:data", space)}
        assert all(keys[name] == "edge" for name in data) and {edge.get("source"), edge.get("target")} <= set(nodes)
        if data["kind"] == "edge":
            found[edge.attrib["id"]] = float(str(data["score"])), str(data["in_circuit"])
    expected = [(scores[where], str(bool(edges[where])).lower()) for where in zip(*np.nonzero(graph.full), strict=True)]
    assert found == dict(zip(graph.labels(), expected, strict=True))


def test_inputs_of_a_head_lead_to_it(tmp_path: Path) -> None:
    """The logits are reached from the embedding where they are in the model, and keys come from every place."""
    graph = Graph.of_shape([LayerShape(2, 1)]).at_places(["a", "b"])
    write_graphml(tmp_path / "x", graph, graph.full.astype(float))
    root = ElementTree.fromstring((tmp_path / "x").read_text().replace(' xmlns="', ' x="'))
    inside = {(e.get("source"), e.get("target")) for e in root.iter("edge") if (e.findtext("data") or "") == "inside"}
    expected = {(f"L0H{head}.q@{place}", f"L0H{head}@{place}") for head in (0, 1) for place in "ab"}
    expected |= {
        (f"L0KV0.{part}@{origin}", f"L0H{head}@{place}") for part in "kv" for origin in "ab" for head in (0, 1) for place in "ab"
    }  # fmt: skip
    assert inside == expected


def dot_lines(path: Path) -> tuple[set[str], dict[tuple[str, str], str]]:
    """Nodes, and attributes of edges by their ends, from the text of a DOT file."""
    name = r'"((?:[^"\\]|\\.)*)"'
    text = path.read_text("utf-8")
    nodes = {node for node in re.findall(rf"^  {name} \[kind", text, re.M)}
    found = re.findall(rf"^  {name} -> {name} \[(score.*)\];$", text, re.M)
    return nodes, {(source, target): values for source, target, values in found}


def test_dot_has_every_edge_with_score_and_mark(tmp_path: Path) -> None:
    graph = GRAPHS["mixed"]
    scores, edges = content(graph)
    write_dot(tmp_path / "x", graph, scores, edges)
    nodes, lines = dot_lines(tmp_path / "x")
    assert {f"{source}->{target}" for source, target in lines} == set(graph.labels())
    assert {end for ends in lines for end in ends} <= nodes
    for (source, target), values in lines.items():
        where = graph.edge(f"{source}->{target}")
        assert f'score="{float(scores[where])!r}"' in values
        assert f"in_circuit={str(bool(edges[where])).lower()}" in values


def test_dot_of_the_circuit_alone(tmp_path: Path) -> None:
    graph = GRAPHS["gqa"]
    scores, _ = content(graph)
    edges = graph.of_labels(["embed->L0KV1.v", "L0H4->logits"])
    write_dot(tmp_path / "x", graph, scores, edges, circuit_only=True)
    nodes, lines = dot_lines(tmp_path / "x")
    assert nodes == {"embed", "L0KV1.v", "L0H4", "logits"}
    assert set(lines) == {("embed", "L0KV1.v"), ("L0H4", "logits")}
    assert '"L0KV1.v" -> "L0H4" [arrowhead=none]' in (tmp_path / "x").read_text()


def test_names_cannot_leave_their_quotes_in_dot(tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(1, 1)]).at_places(["a", '"]; evil -> b [x="\\'])
    write_dot(tmp_path / "x", graph, graph.full.astype(float))
    nodes, lines = dot_lines(tmp_path / "x")
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', "", (tmp_path / "x").read_text())
    assert "evil" not in rest and len(lines) == graph.n_edges and len(nodes) == 2 * 7


def test_names_that_a_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    halved = Graph.of_shape([LayerShape(1, 1)]).at_places(["a", "\ud800"])
    control = Graph.of_shape([LayerShape(1, 1)]).at_places(["a", "\x00"])
    for graph in (halved, control):
        with pytest.raises(InterpError) as caught:
            write_graphml(tmp_path / "x", graph, graph.full.astype(float))
        assert caught.value.code == "E204"
    for call in (write_dot, lambda *given: write_attribution_graph(*given, model_name="x")):
        with pytest.raises(InterpError) as caught:
            call(tmp_path / "x", halved, halved.full.astype(float))
        assert caught.value.code == "E204"
    with pytest.raises(InterpError) as caught:
        write_attribution_graph(tmp_path / "a b.json", control, control.full.astype(float), model_name="x")
    assert caught.value.code == "E204"
    assert not list(tmp_path.iterdir())
