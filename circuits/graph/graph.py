"""`Graph`: writers, readers, and the edges between them.

What a layer reads is the sum of what was written before it, so every reader has one edge from every earlier writer.
An edge is out of a circuit where its reader sees, in the place of what the writer wrote, something else (what it wrote on
another prompt, its mean, nothing); everything between is computed anew from there. Edges are called `writer->reader`,
`L0H1->L1H2.q`, and with positions `L0H1->L1H2.q@subject`: reader and writer stand at the same position, because what
moves between positions moves inside a head.

Readers are what projections make: keys and values that several query heads share have one reader, `L1KV0.k`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.circuits.receivers import LOGITS, MLP, Receiver
from interp.circuits.writes import Part
from interp.hooks.names import HeadId
from interp.kernels.errors import InterpError, suggest

EMBED, POS_EMBED = "embed", "pos_embed"
Edges = Bool[np.ndarray, "place writer reader"]
Scores = Float[np.ndarray, "place writer reader"]


@dataclass(frozen=True)
class LayerShape:
    """What one layer holds.

    Attributes:
        heads, kv_heads: query heads, and key/value heads.
        has_mlp: an MLP or a block of experts, one node in either case.
        is_parallel: the MLP reads what the heads read, so that there is no edge from these heads to it.
        is_joined: a norm spans the heads, of what they write (Gemma 2, OLMo 2) or of their queries or keys (OLMoE), so
            that what one of them computes changes what another one writes.
    """

    heads: int
    kv_heads: int
    has_mlp: bool = True
    is_parallel: bool = False
    is_joined: bool = False


@dataclass(frozen=True, eq=False)
class Graph:
    """Made by `Graph.of_shape`, or for a model by `interp.circuits.graph.flow.Flow.of`.

    Attributes:
        writers: in the order of computation.
        readers: likewise, the logits last.
        layers: what each layer holds.
        places: names of the classes of positions that have edges of their own; one, '', where all positions share edges.
    """

    writers: tuple[Part, ...]
    readers: tuple[Receiver, ...]
    layers: tuple[LayerShape, ...]
    places: tuple[str, ...] = ("",)

    @classmethod
    def of_shape(cls, layers: Sequence[LayerShape], embeddings: Sequence[str] = (EMBED,)) -> Graph:
        """The graph of a decoder with these layers; `embeddings` are the writers before the first of them."""
        writers = [Part(name, "embed") for name in embeddings]
        readers: list[Receiver] = []
        for index, layer in enumerate(layers):
            readers += _attention_readers(index, layer)
            writers += [Part(HeadId("", index, head).label, "head", index, head) for head in range(layer.heads)]
            if layer.has_mlp:
                readers.append(Receiver(f"M{index}", MLP, index))
                writers.append(Part(f"M{index}", "mlp", index))
        return cls(tuple(writers), (*readers, Receiver(LOGITS, LOGITS)), tuple(layers))

    def at_places(self, places: Sequence[str]) -> Graph:
        """The same graph with edges of their own for each class of positions."""
        return replace(self, places=tuple(places))

    def __repr__(self) -> str:
        where = f" at {len(self.places)} places" if len(self.places) > 1 else ""
        return f"Graph({len(self.writers)} writers, {len(self.readers)} readers, {self.n_edges} edges{where})"

    @cached_property
    def seen(self) -> Int[np.ndarray, " reader"]:
        """How many writers each reader sees: the first ones."""
        counts = [self._before(reader) for reader in self.readers]
        return np.array(counts)

    def _before(self, reader: Receiver) -> int:
        if reader.part == LOGITS:
            return len(self.writers)
        sees_own_heads = reader.part == MLP and not self.layers[reader.layer].is_parallel
        return sum(
            part.layer is None or part.layer < reader.layer or (part.layer == reader.layer and sees_own_heads)
            for part in self.writers
            if not (part.kind == "mlp" and part.layer == reader.layer)
        )

    @cached_property
    def exists(self) -> Bool[np.ndarray, "writer reader"]:
        """Where there is an edge."""
        return np.arange(len(self.writers))[:, None] < self.seen[None, :]

    @cached_property
    def full(self) -> Edges:
        """Every edge."""
        return np.repeat(self.exists[None], len(self.places), 0)

    @property
    def none(self) -> Edges:
        """No edge."""
        return np.zeros_like(self.full)

    @property
    def n_edges(self) -> int:
        return int(self.exists.sum()) * len(self.places)

    @cached_property
    def writer_index(self) -> dict[str, int]:
        return {part.label: index for index, part in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> dict[str, int]:
        return {reader.label: index for index, reader in enumerate(self.readers)}

    def label(self, place: int, writer: int, reader: int) -> str:
        """Name of one edge."""
        name = f"{self.writers[writer].label}->{self.readers[reader].label}"
        return f"{name}@{self.places[place]}" if self.places[place] else name

    def labels(self, edges: Edges | None = None) -> list[str]:
        """Names of edges (of all where None), in the order of `np.nonzero`."""
        return [self.label(*map(int, where)) for where in zip(*np.nonzero(self._edges(edges)), strict=True)]

    def edge(self, label: str) -> tuple[int, int, int]:
        """Place, writer and reader of an edge by its name.

        Raises:
            InterpError: E201 no such edge.
        """
        name, _, place = label.partition("@")
        writer, _, reader = name.partition("->")
        for given, known in ((writer, self.writer_index), (reader, self.reader_index), (place, self.places)):
            if given not in known:
                raise InterpError(
                    "E201", f"no edge {label!r}: {given!r} is not in the graph", fix=suggest(given, known)
                )
        found = self.places.index(place), self.writer_index[writer], self.reader_index[reader]
        if not self.exists[found[1:]]:
            raise InterpError("E201", f"no edge {label!r}: {reader} is computed before {writer} has written")
        return found

    def of_labels(self, labels: Iterable[str]) -> Edges:
        """The edges of these names (E201)."""
        edges = self.none
        for label in labels:
            edges[self.edge(label)] = True
        return edges

    def vector(self, values: Scores) -> Float[np.ndarray, " edge"]:
        """The values at the edges that exist, in the order of `labels()`."""
        return values[self.full]

    def matrix(self, values: Float[np.ndarray, " edge"]) -> Scores:
        """The inverse of `vector`; 0 where there is no edge."""
        found = np.zeros(self.full.shape, dtype=values.dtype)
        found[self.full] = values
        return found

    def inputs_of(self, part: Part) -> list[int]:
        """Readers that a writer is computed from; none for embeddings."""
        if part.kind == "mlp":
            return [self.reader_index[part.label]]
        return [] if part.layer is None else [self.reader_index[label] for label in self._feeding(part)]

    def _feeding(self, part: Part) -> Iterator[str]:
        assert part.layer is not None and part.head is not None
        layer = self.layers[part.layer]
        group = part.head * layer.kv_heads // layer.heads
        shared = f"L{part.layer}KV{group}" if layer.kv_heads != layer.heads else part.label
        yield from (f"{part.label}.q", f"{shared}.k", f"{shared}.v")

    def pruned(self, edges: Edges) -> Edges:
        """The edges through which something of the embeddings reaches the logits.

        A part none of whose inputs is in the circuit says what it says without it, and a part that nobody in the
        circuit reads changes nothing; the edges of both are taken out until none is left. Places are told apart where the
        graph allows it: an MLP reads and writes at one position, a head writes where its query stands what it read
        anywhere. Heads that a norm joins stay together: one that nobody reads scales its neighbours all the same.

        Where a run stands in for what is out (resampling), no metric changes by what is taken out. Zeros and means are no
        run: what a part makes of them is not what stands in for it, and its edges are taken out all the same.
        """
        edges = edges & self.full
        while True:
            kept = self._step(edges)
            if (kept == edges).all():
                return edges
            edges = kept

    def _step(self, edges: Edges) -> Edges:
        """Take out the edges of parts without input or without reader."""
        is_fed, is_read = np.any(edges, axis=1), np.any(edges, axis=2)  # [place reader], [place writer]
        alive = np.ones((len(self.places), len(self.writers)), dtype=bool)  # writes something of its own
        wanted = np.zeros((len(self.places), len(self.readers)), dtype=bool)  # what it gives is read
        wanted[:, -1] = True
        for parts, here, moving in self.together:
            is_alive, read = is_fed[:, here].any(1), is_read[:, parts].any(1)
            alive[:, parts] = (is_alive | is_fed[:, moving].any())[:, None]
            wanted[:, here] |= read[:, None]
            wanted[:, moving] |= read.any()
        return edges & alive[:, :, None] & wanted[:, None, :]

    @cached_property
    def together(self) -> list[tuple[slice, slice, list[int]]]:
        """Writers that change together (heads that a norm joins, any other one by itself), without embeddings.

        With each what they read where they write, and what they read anywhere.
        """
        found: list[tuple[list[int], list[int], list[int]]] = []
        for index, part in enumerate(self.writers):
            if part.layer is None:
                continue
            if not (part.head and self.layers[part.layer].is_joined):
                found.append(([], [], []))
            here, *moving = self.inputs_of(part)
            for some, more in zip(found[-1], ([index], [here], moving), strict=True):
                some.extend(more)
        return [
            (slice(parts[0], parts[-1] + 1), slice(here[0], here[-1] + 1), sorted(set(moving)))
            for parts, here, moving in found
        ]

    def _edges(self, edges: Edges | None) -> Edges:
        return self.full if edges is None else edges


def _attention_readers(index: int, layer: LayerShape) -> list[Receiver]:
    """Inputs of the heads of a layer: all queries, then all keys, then all values."""
    shared = layer.kv_heads != layer.heads
    found = [Receiver(f"L{index}H{head}.q", "q", index, head) for head in range(layer.heads)]
    for part in "kv":
        for head in range(layer.kv_heads):
            label = f"L{index}KV{head}" if shared else f"L{index}H{head}"
            found.append(Receiver(f"{label}.{part}", part, index, head))
    return found
