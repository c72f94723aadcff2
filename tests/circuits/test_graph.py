"""The graph of edges: counts by formula, names, and pruning against walks along paths."""

from __future__ import annotations

import numpy as np
import pytest

from interp.circuits.graph.graph import EMBED, POS_EMBED, Edges, Graph, LayerShape
from interp.kernels.errors import InterpError


def counted(layers: int, heads: int, kv_heads: int, *, embeddings: int = 1, parallel: bool = False) -> int:
    """The formula: every reader of a layer sees W(l) = embeddings + l (heads + 1) writers, the MLP its own heads too."""
    before = [embeddings + layer * (heads + 1) for layer in range(layers)]
    own = 0 if parallel else heads
    return sum((heads + 2 * kv_heads + 1) * w + own for w in before) + embeddings + layers * (heads + 1)


@pytest.mark.parametrize(
    ("shape", "layers", "embeddings", "edges"),
    [
        (LayerShape(12, 12), 12, (EMBED,), 32_491),  # GPT-2 small, as in the MIB benchmark
        (LayerShape(12, 12), 12, (EMBED, POS_EMBED), 32_936),  # the same with tokens and positions apart
        (LayerShape(32, 8), 32, (EMBED,), 805_681),  # Llama 3 8B, keys and values as they are shared
        (LayerShape(32, 32), 32, (EMBED,), 1_592_881),  # the same, one reader for each query head
        (LayerShape(12, 12, is_parallel=True), 12, (EMBED,), 32_491 - 12 * 12),  # Pythia 160M
    ],
)
def test_counts_of_known_models(shape: LayerShape, layers: int, embeddings: tuple[str, ...], edges: int) -> None:
    graph = Graph.of_shape([shape] * layers, embeddings)
    assert graph.n_edges == edges
    sizes = (layers, shape.heads, shape.kv_heads)
    assert edges == counted(*sizes, embeddings=len(embeddings), parallel=shape.is_parallel)


def test_a_tiny_graph_edge_by_edge() -> None:
    graph = Graph.of_shape([LayerShape(2, 1), LayerShape(1, 1, has_mlp=False)])
    layer_1 = ["L1H0.q", "L1H0.k", "L1H0.v"]
    expected = [
        *(f"embed->{reader}" for reader in ["L0H0.q", "L0H1.q", "L0KV0.k", "L0KV0.v", "M0", *layer_1, "logits"]),
        *(f"L0H{head}->{reader}" for head in range(2) for reader in ["M0", *layer_1, "logits"]),
        *(f"M0->{reader}" for reader in [*layer_1, "logits"]),
        "L1H0->logits",
    ]
    assert graph.labels() == expected
    assert [part.label for part in graph.writers] == ["embed", "L0H0", "L0H1", "M0", "L1H0"]


def test_heads_of_a_parallel_block_do_not_reach_their_mlp() -> None:
    graph = Graph.of_shape([LayerShape(2, 2, is_parallel=True)] * 2)
    into = {label.split("->")[0] for label in graph.labels() if label.endswith("->M1")}
    assert into == {"embed", "L0H0", "L0H1", "M0"}


@pytest.fixture(
    params=[(("",), False), (("subject", "end"), False), (("",), True), (("subject", "end"), True)],
    ids=["together", "places", "joined", "joined places"],
)
def graph(request: pytest.FixtureRequest) -> Graph:
    places, joined = request.param
    layers = [
        LayerShape(2, 1, is_joined=joined),
        LayerShape(4, 2, is_parallel=True),
        LayerShape(2, 2, has_mlp=False, is_joined=joined),
    ]
    return Graph.of_shape(layers, (EMBED, POS_EMBED)).at_places(places)


def test_names_and_vectors_round_trip(graph: Graph) -> None:
    draw = np.random.default_rng(0)
    some = graph.full & (draw.random(graph.full.shape) < 0.3)
    assert (graph.of_labels(graph.labels(some)) == some).all()
    assert (graph.of_labels(graph.labels()) == graph.full).all()
    assert len(set(graph.labels())) == graph.n_edges == int(graph.full.sum())
    values = draw.normal(size=graph.full.shape) * graph.full
    vector = graph.vector(values)
    assert (graph.matrix(vector) == values).all()
    assert [values[graph.edge(label)] for label in graph.labels()] == vector.tolist()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("L0H0->L9H0.q", "'L9H0.q' is not in the graph"),
        ("L0H7->logits", "'L0H7' is not in the graph"),
        ("L0H0->L1H0.k", "'L1H0.k' is not in the graph"),  # keys are shared there
        ("L1H0->L0H1.q", "computed before"),
        ("M1->M1", "computed before"),
        ("L1H3->M1", "computed before"),
        ("embed->logits@nowhere", "'nowhere' is not in the graph"),
        ("embed", "'' is not in the graph"),
    ],
)
def test_names_that_are_no_edges(label: str, words: str) -> None:
    layers = [LayerShape(2, 1), LayerShape(4, 2, is_parallel=True), LayerShape(2, 2, has_mlp=False)]
    with pytest.raises(InterpError, match=words) as caught:
        Graph.of_shape(layers).edge(label)
    assert caught.value.code == "E201"


def walked(graph: Graph, edges: Edges) -> Edges:
    """Which edges lie on a walk from an embedding to the logits, edge by edge.

    Nodes are (writer, place) and (reader, place). Values and keys reach their heads at every place, queries and MLPs
    where they stand. Where a norm joins the heads of a layer, what one of them reads reaches what all of them write.
    """
    places = range(len(graph.places))
    feeds: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (reader, place) -> (writer, place)
    for index, part in enumerate(graph.writers):
        is_joined = part.kind == "head" and graph.layers[part.layer].is_joined  # type: ignore[index]
        beside = [i for i, one in enumerate(graph.writers) if (one.kind, one.layer) == (part.kind, part.layer)]
        for number, reader in enumerate(graph.inputs_of(part)):
            moves = part.kind == "head" and number > 0
            for place in places:
                reached = [
                    (at, to) for at in (beside if is_joined else [index]) for to in places if moves or to == place
                ]
                feeds.setdefault((reader, place), []).extend(reached)
    embeddings = [(i, p) for i, part in enumerate(graph.writers) if part.layer is None for p in places]
    forward = {("w", *node) for node in embeddings}
    backward = {("r", len(graph.readers) - 1, place) for place in places}
    steps = [
        *((("w", int(w), int(p)), ("r", int(r), int(p))) for p, w, r in zip(*np.nonzero(edges), strict=True)),
        *((("r", *reader), ("w", *writer)) for reader, writers in feeds.items() for writer in writers),
    ]
    for _ in range(4 * len(graph.layers) + 4):
        forward |= {end for start, end in steps if start in forward}
        backward |= {start for start, end in steps if end in backward}
    found = np.zeros_like(edges)
    for p, w, r in zip(*np.nonzero(edges), strict=True):
        found[p, w, r] = ("w", int(w), int(p)) in forward and ("r", int(r), int(p)) in backward
    return found


@pytest.mark.parametrize("share", [0.02, 0.05, 0.15, 0.5])
def test_pruning_leaves_what_lies_on_a_walk(graph: Graph, share: float) -> None:
    draw = np.random.default_rng(int(share * 100))
    kept = 0
    for _ in range(12):
        edges = graph.full & (draw.random(graph.full.shape) < share)
        pruned = graph.pruned(edges)
        assert (pruned == walked(graph, edges)).all()
        assert (graph.pruned(pruned) == pruned).all()
        kept += int(pruned.sum())
    assert kept > 0 or share < 0.05


def test_pruning_takes_nothing_from_the_full_graph_and_leaves_nothing_of_a_cut_one(graph: Graph) -> None:
    assert (graph.pruned(graph.full) == graph.full).all()
    cut = graph.full.copy()
    cut[:, :, -1] = False
    assert not graph.pruned(cut).any()
