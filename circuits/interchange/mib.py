"""`MibLayout`: names and order of the importance files of the MIB benchmark (2504.13151) and of EAP-IG (2403.17806).

Their graph has the nodes `input`, `a{layer}.h{head}`, `m{layer}` and `logits`, and edges such as `a0.h1->a1.h0<q>`;
heads have keys and values of their own, all positions share edges. Where our graph differs:

- `input` takes the sum of our embeddings. In EAP-IG it is the token embedding alone and positions stay as they are: the
  same, as long as both prompts of a pair have their tokens at the same positions. Read onto a graph with several
  embeddings, the score is that of the first; the others get 0, and their edges are in the circuit with it.
- Shared keys and values: see `interp.circuits.interchange.twin`.
- A layer without MLP: its `m{layer}` has scores of 0, is in no circuit, and must be so in what is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from interp.circuits.graph.graph import Graph
from interp.circuits.interchange.content import Imported
from interp.circuits.interchange.reading import Field
from interp.circuits.interchange.twin import DrawnEdges, DrawnScores, Twin
from interp.circuits.receivers import Receiver
from interp.circuits.writes import Part
from interp.kernels.errors import InterpError


@dataclass(frozen=True, eq=False)
class MibLayout:
    """Made by `MibLayout.of`.

    Attributes:
        twin: our graph beside theirs.
        writers, readers: their names, in the order of their tensors.
    """

    twin: Twin
    writers: tuple[str, ...]
    readers: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph) -> MibLayout:
        """Raises E205 for a graph of several places, or with layers or writers that the format cannot tell apart."""
        if len(graph.places) > 1:
            what = f"a graph with {len(graph.places)} places; in this format all positions share edges"
            raise InterpError("E205", what, fix="use a graph without positions, or GraphML")
        twin = Twin.uniform(graph)
        writers = tuple(map(_writer_name, twin.drawn.writers))
        return cls(twin, writers, tuple(map(_reader_name, twin.drawn.readers)))

    @property
    def drawn(self) -> Graph:
        """Their graph."""
        return self.twin.drawn

    @property
    def shape(self) -> dict[str, Any]:
        """What their `cfg` says of the graph."""
        layers = self.drawn.layers
        return {"n_layers": len(layers), "n_heads": layers[0].heads, "parallel_attn_mlp": layers[0].is_parallel}

    def cfg(self, d_model: int, model_name: str) -> dict[str, Any]:
        """Their `cfg`; d_model because their reader makes tensors of that width."""
        return {**self.shape, "d_model": d_model, "model_name": model_name}

    def check_cfg(self, cfg: Field) -> None:
        """Raise E206 where a file is of another graph, E303 where it does not say."""
        for key, expected in self.shape.items():
            field = cfg.get(key)
            found = field.flag() if isinstance(expected, bool) else field.integer()
            if found != expected:
                what = f"the file is of a graph with {key} {found}; this one has {expected}"
                field.refuse(what, code="E206", fix="read it onto the graph of its own model")

    def nodes_in_graph(self, edges: DrawnEdges) -> Bool[np.ndarray, " drawn_writer"]:
        """Their rule: a node is in the circuit where it has an edge out, and one in unless it is the input."""
        is_read, is_fed = edges[0].any(1), edges[0].any(0)
        fed = [not (inputs := self.drawn.inputs_of(part)) or is_fed[inputs].any() for part in self.drawn.writers]
        return is_read & np.array(fed)

    def read(self, scores: DrawnScores, edges: DrawnEdges, notes: Mapping[str, bool], file: Field) -> Imported:
        """Scores and circuit of their graph on ours.

        Args:
            notes: sentences, and whether each holds of this file.
        """
        known = self.twin.spread_edges(self.twin.graph.full)
        foreign = ((scores != 0) | edges) & self.drawn.full & ~known
        if foreign.any():
            _, writer, reader = np.argwhere(foreign)[0]
            what = f"edge {self.writers[writer]}->{self.readers[reader]} is in use, and this graph has no such edge"
            file.refuse(what, code="E201", fix="read it onto the graph of its own model")
        uneven = self.twin.n_uneven(edges)
        about = {
            **notes,
            f"{uneven} edges to shared keys or values are in the circuit for some of their query heads alone, and so "
            "are read as in it": uneven > 0,
        }
        kept = (*self.notes("read"), *(sentence for sentence, holds in about.items() if holds))
        return Imported.of(self.twin.gather(scores), self.twin.gather_edges(edges), kept)

    def notes(self, verb: str) -> tuple[str, ...]:
        """What the format holds in another form than this graph."""
        embeddings = [part.label for part in self.twin.graph.writers if part.kind == "embed"]
        found = []
        if self.twin.is_joint and verb == "read":
            found.append(f"the score of 'input' is given to {embeddings[0]}; {', '.join(embeddings[1:])} gets 0")
        elif self.twin.is_joint:
            found.append(f"'input' is the sum of {', '.join(embeddings)}")
        if self.twin.is_grouped:
            how = "the sum over their query heads" if verb == "read" else "divided equally among their query heads"
            found.append(f"scores of edges to shared keys and values are {how}")
        return tuple(found)


def _writer_name(part: Part) -> str:
    if part.kind == "embed":
        return "input"
    return f"m{part.layer}" if part.kind == "mlp" else f"a{part.layer}.h{part.head}"


def _reader_name(reader: Receiver) -> str:
    if reader.part == "logits":
        return "logits"
    return f"m{reader.layer}" if reader.part == "mlp" else f"a{reader.layer}.h{reader.head}<{reader.part}>"
