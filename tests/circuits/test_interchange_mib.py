"""MIB importance files: the layout that the official code reads and writes, and numbers that come back unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.circuits.graph.graph import Graph, LayerShape
from interp.circuits.interchange.content import UNMARKED, Imported
from interp.circuits.interchange.mib_json import read_mib_json, write_mib_json
from interp.circuits.interchange.mib_pt import read_mib_pt, write_mib_pt
from interp.circuits.writes import Part
from interp.kernels.errors import InterpError

GPT2, PARALLEL = LayerShape(12, 12), LayerShape(4, 4, is_parallel=True)
GRAPHS = {
    "gpt2": Graph.of_shape([GPT2] * 4),
    "gqa": Graph.of_shape([LayerShape(12, 4)] * 3),
    "one-kv-head": Graph.of_shape([LayerShape(7, 1)] * 2),
    "parallel": Graph.of_shape([PARALLEL] * 3),
    "some-mlps": Graph.of_shape([LayerShape(3, 1), LayerShape(3, 3, has_mlp=False, is_parallel=True)]),
    "without-mlps": Graph.of_shape([LayerShape(4, 2, has_mlp=False)] * 2),
}
Written = Callable[..., Imported]


def content(graph: Graph, dtype: Any = np.float32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random scores of all sizes and a random circuit."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=graph.full.shape) * 10.0 ** rng.integers(-30, 20, graph.full.shape)
    return np.where(graph.full, scores, 0).astype(dtype), graph.full & (rng.random(graph.full.shape) < 0.3)


def by_json(path: Path, graph: Graph, scores: np.ndarray, edges: np.ndarray | None) -> Imported:
    write_mib_json(path / "x.json", graph, scores, edges, d_model=8)
    return read_mib_json(path / "x.json", graph)


def by_pt(path: Path, graph: Graph, scores: np.ndarray, edges: np.ndarray | None) -> Imported:
    write_mib_pt(path / "x.pt", graph, scores, edges, d_model=8)
    return read_mib_pt(path / "x.pt", graph)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("through", [by_json, by_pt])
def test_what_is_written_comes_back_exactly(through: Written, name: str, dtype: Any, tmp_path: Path) -> None:
    scores, edges = content(GRAPHS[name], dtype)
    found = through(tmp_path, GRAPHS[name], scores, edges)
    assert np.array_equal(found.scores, scores)
    assert found.edges is not None and np.array_equal(found.edges, edges)
    assert found.scores.dtype == (dtype if through is by_pt else np.float64)


@pytest.mark.parametrize("through", [by_json, by_pt])
def test_no_circuit_is_told(through: Written, tmp_path: Path) -> None:
    scores, _ = content(GRAPHS["gqa"])
    found = through(tmp_path, GRAPHS["gqa"], scores, None)
    assert found.edges is None and found.notes[-1] == UNMARKED


def official_edges(n_layers: int, n_heads: int, is_parallel: bool) -> list[str]:
    """Names of the edges in the order that the official graph is built, from its description alone."""
    stream, found = ["input"], []
    for layer in range(n_layers):
        heads = [f"a{layer}.h{head}" for head in range(n_heads)]
        found += [f"{node}->{head}<{letter}>" for node in stream for head in heads for letter in "qkv"]
        found += [f"{node}->m{layer}" for node in (stream if is_parallel else stream + heads)]
        stream = [*stream, *heads, f"m{layer}"]
    return found + [f"{node}->logits" for node in stream]


@pytest.mark.parametrize(("shape", "count"), [(GPT2, 32491), (replace(GPT2, is_parallel=True), 32491 - 144)])
def test_edges_are_those_of_the_official_graph(shape: LayerShape, count: int, tmp_path: Path) -> None:
    graph = Graph.of_shape([shape] * 12)
    write_mib_json(tmp_path / "x.json", graph, content(graph)[0], d_model=768, model_name="gpt2")
    written = json.loads((tmp_path / "x.json").read_text())
    names = official_edges(12, 12, shape.is_parallel)
    assert len(names) == count == graph.n_edges
    assert written["edges"].keys() == set(names)
    nodes = {"input", "logits", *(f"m{i}" for i in range(12)), *(f"a{i}.h{j}" for i in range(12) for j in range(12))}
    assert written["nodes"].keys() == nodes
    cfg = {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": shape.is_parallel, "d_model": 768, "model_name": "gpt2"}
    assert written["cfg"] == cfg


def test_tensors_are_indexed_as_in_the_official_graph(tmp_path: Path) -> None:
    graph, layers, heads = Graph.of_shape([LayerShape(3, 3)] * 2), 2, 3
    scores, edges = content(graph)
    write_mib_pt(tmp_path / "x.pt", graph, scores, edges, d_model=8)
    write_mib_json(tmp_path / "x.json", graph, scores, edges, d_model=8)
    tensors = torch.load(tmp_path / "x.pt", weights_only=True)
    named = json.loads((tmp_path / "x.json").read_text())["edges"]

    def forward(name: str) -> int:
        if name == "input":
            return 0
        if name[0] == "m":
            return 1 + int(name[1:]) * (heads + 1) + heads
        layer, head = name[1:].split(".h")
        return 1 + int(layer) * (heads + 1) + int(head)

    def backward(name: str) -> int:
        if name == "logits":
            return layers * (3 * heads + 1)
        if name[0] == "m":
            return int(name[1:]) * (3 * heads + 1) + 3 * heads
        layer, head = name[1:-3].split(".h")
        return int(layer) * (3 * heads + 1) + "qkv".index(name[-2]) * heads + int(head)

    expected, marks = torch.zeros(1 + layers * (heads + 1), layers * (3 * heads + 1) + 1), set()
    for name, edge in named.items():
        source, target = name.split("->")
        expected[forward(source), backward(target)] = edge["score"]
        marks |= {(forward(source), backward(target))} if edge["in_graph"] else set()
        assert tensors["src_nodes"][forward(source)] == source and tensors["dst_nodes"][backward(target)] == target
    assert torch.equal(tensors["edges_scores"], expected) and tensors["edges_scores"].dtype is torch.float32
    assert set(map(tuple, tensors["edges_in_graph"].nonzero().tolist())) == marks


def test_a_file_as_the_official_code_writes_it(tmp_path: Path) -> None:
    """One layer, two heads; node scores that were never set are NaN, in order of the official graph, on one line."""
    names = official_edges(1, 2, False)
    edges = {name: {"score": number / 4, "in_graph": number % 3 == 0} for number, name in enumerate(names)}
    nodes = {name: {"in_graph": True, "score": float("nan")} for name in ("input", "a0.h0", "a0.h1", "m0", "logits")}
    del nodes["logits"]["score"]
    cfg = {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 16}
    (tmp_path / "x.json").write_text(json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges}))
    found = read_mib_json(tmp_path / "x.json", Graph.of_shape([LayerShape(2, 2)]))
    graph = Graph.of_shape([LayerShape(2, 2)])
    expected = {
        "embed->L0H0.q": 0, "embed->L0H0.k": 1, "embed->L0H0.v": 2, "embed->L0H1.q": 3, "embed->L0H1.k": 4,
        "embed->L0H1.v": 5, "embed->M0": 6, "L0H0->M0": 7, "L0H1->M0": 8, "embed->logits": 9, "L0H0->logits": 10,
        "L0H1->logits": 11, "M0->logits": 12,
    }  # fmt: skip
    assert {name: found.scores[graph.edge(name)] * 4 for name in graph.labels()} == expected
    assert found.edges is not None
    assert set(graph.labels(found.edges)) == {name for name, number in expected.items() if number % 3 == 0}
    assert found.notes == ("scores of nodes are not read",)


def test_shared_readers_are_the_sum_over_their_query_heads(tmp_path: Path) -> None:
    shared, twin = Graph.of_shape([LayerShape(6, 2)] * 2), Graph.of_shape([LayerShape(6, 6)] * 2)
    scores, edges = content(twin, np.float64)
    scores = np.where(twin.full, np.round(np.random.default_rng(1).normal(size=scores.shape) * 64) / 64, 0)
    write_mib_json(tmp_path / "x.json", twin, scores, edges, d_model=8)
    found = read_mib_json(tmp_path / "x.json", shared)
    assert found.edges is not None
    for label in shared.labels():
        writer, reader = label.split("->")
        names = [label]
        if "KV" in reader:
            layer, rest = reader.split("KV")
            names = [f"{writer}->{layer}H{int(rest[0]) * 3 + number}{rest[1:]}" for number in range(3)]
        assert found.scores[shared.edge(label)] == sum(scores[twin.edge(name)] for name in names)
        assert found.edges[shared.edge(label)] == any(edges[twin.edge(name)] for name in names)
    assert "sum over their query heads" in found.notes[0] and "for some of their query heads alone" in found.notes[1]


def test_shared_readers_are_written_in_equal_shares(tmp_path: Path) -> None:
    shared, twin = Graph.of_shape([LayerShape(6, 2)] * 2), Graph.of_shape([LayerShape(6, 6)] * 2)
    scores, _ = content(shared, np.float64)
    notes = write_mib_json(tmp_path / "x.json", shared, scores, d_model=8)
    apart = read_mib_json(tmp_path / "x.json", twin).scores
    for head in range(6):
        share = scores[shared.edge(f"L0H1->L1KV{head // 3}.v")] / 3
        assert apart[twin.edge(f"L0H1->L1H{head}.v")] == pytest.approx(share, rel=1e-15)
    assert notes == ("scores of edges to shared keys and values are divided equally among their query heads",)


@pytest.mark.parametrize("through", [by_json, by_pt])
def test_embeddings_are_joined_and_the_first_gets_the_sum(through: Written, tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(2, 2)] * 2, ["embed", "pos_embed"])
    scores, _ = content(graph, np.float64)
    edges = graph.of_labels(["embed->M0", "pos_embed->M1", "L0H0->logits"])
    found = through(tmp_path, graph, scores, edges)
    assert np.array_equal(found.scores[:, 0], scores[:, 0] + scores[:, 1])
    assert not found.scores[:, 1].any() and np.array_equal(found.scores[:, 2:], scores[:, 2:])
    assert found.edges is not None
    both = ["embed->M0", "pos_embed->M0", "embed->M1", "pos_embed->M1", "L0H0->logits"]
    assert set(graph.labels(found.edges)) == set(both)
    assert found.notes == ("the score of 'input' is given to embed; pos_embed gets 0",)


def test_nodes_are_in_the_circuit_where_they_are_fed_and_read(tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(2, 1)] * 2)
    edges = graph.of_labels(["embed->L0KV0.v", "L0H0->M1", "M1->logits", "L0H1->M0"])
    write_mib_json(tmp_path / "x.json", graph, content(graph)[0], edges, d_model=8)
    nodes = json.loads((tmp_path / "x.json").read_text())["nodes"]
    assert {name for name, node in nodes.items() if node["in_graph"]} == {"input", "a0.h0", "a0.h1", "m1", "logits"}


def test_marks_of_node_level_circuits_are_passed_over_and_told(tmp_path: Path) -> None:
    """The official node level sets whole rows, also where there is no edge."""
    graph = Graph.of_shape([LayerShape(2, 2)] * 2)
    write_mib_pt(tmp_path / "x.pt", graph, content(graph)[0], graph.full, d_model=8)
    tensors = torch.load(tmp_path / "x.pt", weights_only=True)
    tensors["edges_in_graph"][:] = True
    torch.save({**tensors, "nodes_scores": torch.zeros(7)}, tmp_path / "x.pt")
    found = read_mib_pt(tmp_path / "x.pt", graph)
    assert np.array_equal(found.edges, graph.full)
    beyond = graph.full.size - graph.n_edges
    assert found.notes == (
        "scores of nodes are not read",
        f"{beyond} marks stand where there is no edge and are passed over",
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_scores_are_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(2, 2)])
    scores = graph.matrix(np.arange(graph.n_edges, dtype=np.float32) / 4)
    write_mib_pt(tmp_path / "x.pt", graph, scores, d_model=8)
    tensors = torch.load(tmp_path / "x.pt", weights_only=True)
    torch.save({**tensors, "edges_scores": tensors["edges_scores"].to(dtype)}, tmp_path / "x.pt")
    found = read_mib_pt(tmp_path / "x.pt", graph).scores
    assert found.dtype == np.float32 and np.array_equal(found, scores)


UNFIT = {
    "places": Graph.of_shape([GPT2]).at_places(["subject", "end"]),
    "heads-differ": Graph.of_shape([LayerShape(4, 4), LayerShape(2, 2)]),
    "some-parallel": Graph.of_shape([LayerShape(4, 4), PARALLEL]),
    "no-layers": Graph.of_shape([]),
    "another-writer": replace(GRAPHS["gqa"], writers=(*GRAPHS["gqa"].writers, Part("L2.other", "other", 2))),
}


@pytest.mark.parametrize("name", UNFIT)
def test_graphs_that_the_format_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    graph, write = UNFIT[name], (write_mib_json, write_mib_pt)
    for call in (*write, read_mib_json, read_mib_pt):
        with pytest.raises(InterpError) as caught:
            call(tmp_path / "x", graph, *((graph.full.astype(float),) if call in write else ()), **(
                {"d_model": 8} if call in write else {}
            ))  # fmt: skip
        assert caught.value.code == "E205"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_mib_json, write_mib_pt])
def test_bad_content_is_refused_and_nothing_is_written(write: Callable[..., Any], tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(2, 2)])
    good = graph.full.astype(np.float32)
    beyond = np.ones_like(graph.full)
    for code, scores, edges in (
        ("E206", good[:, :-1], None),
        ("E206", good[:, :, 1:], graph.full[:, :, 1:]),
        ("E206", good.astype(np.float16), None),
        ("E207", np.where(graph.full, np.nan, good), None),
        ("E207", np.where(graph.full, np.inf, good), None),
        ("E201", good, beyond),
    ):
        with pytest.raises(InterpError) as caught:
            write(tmp_path / "x", graph, scores, edges, d_model=8)
        assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_numbers_where_there_is_no_edge_are_not_looked_at(tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(2, 2)])
    scores, _ = content(graph)
    found = by_pt(tmp_path, graph, np.where(graph.full, scores, np.float32(np.nan)), None)
    assert np.array_equal(found.scores, scores)


def test_sums_out_of_range_are_refused(tmp_path: Path) -> None:
    graph = Graph.of_shape([LayerShape(2, 2)], ["embed", "pos_embed"])
    with pytest.raises(InterpError) as caught:
        write_mib_pt(tmp_path / "x", graph, graph.full * np.float32(3e38), d_model=8)
    assert caught.value.code == "E207"
    write_mib_json(tmp_path / "y", Graph.of_shape([LayerShape(2, 2)]), np.full((1, 4, 8), 1.5e308), d_model=8)
    with pytest.raises(InterpError) as caught:
        read_mib_json(tmp_path / "y", Graph.of_shape([LayerShape(2, 1)]))
    assert caught.value.code == "E207"
