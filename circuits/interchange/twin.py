"""`Twin`: a graph beside the graph that another tool draws of the same model.

Other tools give each query head keys and values of its own; here query heads that share keys share one reader. The
effect of an edge to a shared reader is the sum of its effects through the query heads. So it is written in equal shares,
one a query head, and read as their sum. The last share is what the others leave, which makes the sum exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.graph.graph import EMBED, Edges, Graph, LayerShape, Scores
from interp.circuits.receivers import Receiver
from interp.kernels.errors import InterpError

DrawnEdges = Bool[np.ndarray, "place drawn_writer drawn_reader"]
DrawnScores = Float[np.ndarray, "place drawn_writer drawn_reader"]


@dataclass(frozen=True, eq=False)
class Twin:
    """Made by `Twin.ungrouped` or `Twin.uniform`.

    Attributes:
        graph: ours.
        drawn: the other one, over the same places.
        writer_of: for each writer of ours its writer in `drawn`; embeddings may share one.
        readers_of: for each reader of ours its readers in `drawn`, in order of their heads.
    """

    graph: Graph
    drawn: Graph
    writer_of: tuple[int, ...]
    readers_of: tuple[tuple[int, ...], ...]

    @classmethod
    def ungrouped(cls, graph: Graph) -> Twin:
        """Readers for each query head; everything else as it is."""
        layers = [replace(layer, kv_heads=layer.heads) for layer in graph.layers]
        embeddings = [part.label for part in graph.writers if part.kind == "embed"]
        return cls._of(graph, Graph.of_shape(layers, embeddings).at_places(graph.places))

    @classmethod
    def uniform(cls, graph: Graph) -> Twin:
        """Readers for each query head, one embedding, and an MLP in every layer.

        Raises:
            InterpError: E205 layers that differ in their number of heads or in being parallel.
        """
        heads = {layer.heads for layer in graph.layers}
        parallel = {layer.is_parallel for layer in graph.layers if layer.has_mlp}
        if len(heads) != 1 or len(parallel) > 1:
            what = "the layers differ in their number of heads or in how the MLP reads; this format has one for all"
            raise InterpError("E205", what, fix="use GraphML, which takes every graph")
        n_heads = heads.pop()
        layers = [LayerShape(n_heads, n_heads, is_parallel=True in parallel)] * len(graph.layers)
        return cls._of(graph, Graph.of_shape(layers, [EMBED]).at_places(graph.places))

    @classmethod
    def _of(cls, graph: Graph, drawn: Graph) -> Twin:
        if other := [part.label for part in graph.writers if part.kind not in ("embed", "head", "mlp")]:
            what = f"this format has no writer such as {other[0]!r}"
            raise InterpError("E205", what, fix="use GraphML, which takes every graph")
        writer_of = [drawn.writer_index.get(part.label, 0) for part in graph.writers]
        return cls(graph, drawn, tuple(writer_of), tuple(cls._readers(graph, drawn, one) for one in graph.readers))

    @staticmethod
    def _readers(graph: Graph, drawn: Graph, reader: Receiver) -> tuple[int, ...]:
        if reader.part not in ("k", "v"):
            return (drawn.reader_index[reader.label],)
        layer = graph.layers[reader.layer]
        heads = [head for head in range(layer.heads) if head * layer.kv_heads // layer.heads == reader.head]
        return tuple(drawn.reader_index[f"L{reader.layer}H{head}.{reader.part}"] for head in heads)

    @property
    def is_grouped(self) -> bool:
        """Whether a reader of ours is several of the other graph."""
        return any(len(readers) > 1 for readers in self.readers_of)

    @property
    def is_joint(self) -> bool:
        """Whether several embeddings of ours are one of the other graph."""
        return len(set(self.writer_of)) < len(self.writer_of)

    def spread(self, scores: Scores) -> DrawnScores:
        """Scores on the other graph: embeddings that are one there are added, shared readers give equal shares."""
        joint = np.zeros((len(scores), len(self.drawn.writers), len(self.readers_of)), dtype=scores.dtype)
        with np.errstate(over="ignore"):
            for index, target in enumerate(self.writer_of):
                joint[:, target] += scores[:, index]
        found = np.zeros(self.drawn.full.shape, dtype=scores.dtype)
        for index, readers in enumerate(self.readers_of):
            for target, share in zip(readers, _shares(joint[:, :, index], len(readers)), strict=True):
                found[:, :, target] = share
        return _in_range(found)

    def gather(self, scores: DrawnScores) -> Scores:
        """The inverse of `spread`; where embeddings are one in the other graph, the first of ours gets the score."""
        sums = np.zeros((*scores.shape[:2], len(self.readers_of)), dtype=scores.dtype)
        with np.errstate(over="ignore"):
            for index, readers in enumerate(self.readers_of):
                for target in readers:
                    sums[:, :, index] += scores[:, :, target]
        found = sums[:, list(self.writer_of)]
        found[:, [target in self.writer_of[:index] for index, target in enumerate(self.writer_of)]] = 0
        return _in_range(np.where(self.graph.full, found, scores.dtype.type(0)))

    def spread_edges(self, edges: Edges) -> DrawnEdges:
        """A circuit on the other graph."""
        joint = np.zeros((len(edges), len(self.drawn.writers), len(self.readers_of)), dtype=bool)
        for index, target in enumerate(self.writer_of):
            joint[:, target] |= edges[:, index]
        found = self.drawn.none
        for index, readers in enumerate(self.readers_of):
            found[:, :, list(readers)] = joint[:, :, index, None]
        return found

    def gather_edges(self, edges: DrawnEdges) -> Edges:
        """A circuit of the other graph on ours: a shared reader is read where one of its query heads reads."""
        found = np.stack([edges[:, :, list(readers)].any(-1) for readers in self.readers_of], axis=-1)
        return found[:, list(self.writer_of)] & self.graph.full

    def n_uneven(self, edges: DrawnEdges) -> int:
        """Edges to shared readers that are in the other circuit for some query heads alone."""
        some = self.gather_edges(edges)
        every = np.stack([edges[:, :, list(readers)].all(-1) for readers in self.readers_of], axis=-1)
        return int((some & ~every[:, list(self.writer_of)]).sum())


def _in_range(scores: Scores) -> Scores:
    """The scores, all finite before they were added (E207 a sum is not)."""
    if not np.isfinite(scores).all():
        raise InterpError("E207", f"a sum of scores is too large for {scores.dtype}", fix="scale the scores down")
    return scores


def _shares(values: Float[np.ndarray, "place writer"], number: int) -> Iterator[Float[np.ndarray, "place writer"]]:
    """Equal parts whose sum, taken in their order, is the value itself: the last difference has no rounding."""
    taken = np.zeros_like(values)
    for _ in range(number - 1):
        share = values / values.dtype.type(number)
        taken += share
        yield share
    yield values - taken
