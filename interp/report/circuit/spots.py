"""Which node of a picture each writer and reader of a graph belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from interp.circuits.graph.graph import Graph
from interp.circuits.receivers import MLP, Receiver
from interp.circuits.writes import Part

STAGES = {"embed": 0, "kv": 0, "head": 1, "mlp": 2, "logits": 3}
"""Order within a layer: keys and values are made before heads write, and heads before the MLP."""

ALL = -1
"""In the place of a head: all heads of the layer."""


@dataclass(frozen=True, order=True)
class Spot:
    """Which node it is, in the order of the drawing.

    Attributes:
        place: index of a class of positions.
        layer: -1 for embeddings, the number of layers for the logits.
        stage: of `STAGES`.
        head: a head, a key/value head, `ALL`, or which of the embeddings.
    """

    place: int
    layer: int
    stage: int
    head: int = 0


@dataclass(frozen=True)
class Places:
    """Where the writers and readers of a graph are drawn; `merged`: the heads of a layer are one."""

    graph: Graph
    merged: bool

    def ends(self, place: int, writer: int, reader: int) -> tuple[Spot, Spot]:
        """Both ends of an edge."""
        return self.of_writer(self.graph.writers[writer], writer, place), self.of_reader(
            self.graph.readers[reader], place
        )

    def of_writer(self, part: Part, index: int, place: int) -> Spot:
        if part.layer is None:
            return Spot(place, -1, STAGES["embed"], index)
        head = part.head or 0
        return Spot(place, part.layer, STAGES[part.kind], ALL if self.merged and part.kind == "head" else head)

    def of_reader(self, reader: Receiver, place: int) -> Spot:
        if reader.layer < 0:
            return Spot(place, len(self.graph.layers), STAGES["logits"])
        if reader.part == MLP:
            return Spot(place, reader.layer, STAGES["mlp"])
        apart = reader.part != "q" and self.is_split(reader.layer)
        return Spot(place, reader.layer, STAGES["kv" if apart else "head"], ALL if self.merged else reader.head)

    def is_split(self, layer: int) -> bool:
        """Whether keys and values are nodes of their own: heads share them, or read them at other places."""
        shape = self.graph.layers[layer]
        return len(self.graph.places) > 1 or shape.kv_heads != shape.heads

    def moves(self, source: Spot, target: Spot) -> bool:
        """Whether the head `target` takes what it moves from the keys and values `source`."""
        if source.layer != target.layer or (source.stage, target.stage) != (STAGES["kv"], STAGES["head"]):
            return False
        shape = self.graph.layers[source.layer]
        return ALL in (source.head, target.head) or target.head * shape.kv_heads // shape.heads == source.head

    def labels(self) -> Iterator[tuple[Spot, str]]:
        """Every node that there could be at the first place, with its label."""
        for index, part in enumerate(self.graph.writers):
            yield self.of_writer(part, index, 0), part.label
        for reader in self.graph.readers:
            yield self.of_reader(reader, 0), reader.label.partition(".")[0]

    def kind(self, spot: Spot) -> str:
        """Which of `STAGES` a node is."""
        if spot.layer < 0 or spot.layer == len(self.graph.layers):
            return "embed" if spot.layer < 0 else "logits"
        return next(kind for kind in ("kv", "head", "mlp") if STAGES[kind] == spot.stage)
