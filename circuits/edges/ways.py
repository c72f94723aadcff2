"""Ways: sets of edges that growth can add to a circuit, in which every part that is read reads something itself.

An edge alone does nothing as long as what its writer reads is ablated, and a head whose key is there and whose query is
not says nothing yet. So an edge comes with one into each input of its writer, the one of largest pull, and so on back to
the embeddings. Inputs that are not needed are taken out again once the way was run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from interp.circuits.graph.graph import Edges, Graph, Scores

Edge = tuple[int, int, int]


def tried(graph: Graph, circuit: Edges, pulls: Sequence[Scores], shortlist: int, room: int) -> list[Edges]:
    """Ways from a circuit, without the edges that are in it.

    From each pull: edges into what is read already, of largest pull, each completed; the first 2, 4, 8, ... of these
    together; and the 2, 4, 8, ... edges of largest pull anywhere. The last two are for parts that do nothing without each
    other.

    Args:
        pulls: how much each edge promises, not negative, by several accounts.
        shortlist: edges of each account that are tried one by one.
        room: edges that may be added; ways are up to twice as long, because they get shorter when they are run.
    """
    is_open = graph.full & ~circuit
    is_next = is_open & read_by_circuit(graph, circuit)
    found: dict[bytes, Edges] = {}
    for pull in pulls:
        first = strongest(np.where(is_next, pull, -1.0), shortlist)
        single = [completed(graph, circuit, [edge], pull) for edge in first]
        joint = [np.logical_or.reduce(single[:n]) for n in _powers(len(single))]
        anywhere = strongest(np.where(is_open, pull, -1.0), 2 * room)
        broad = [used(graph, completed(graph, circuit, anywhere[:n], pull), circuit) for n in _powers(len(anywhere))]
        found |= {way.tobytes(): way for way in (*single, *joint, *broad)}
    return [way for way in found.values() if 0 < way.sum() <= 2 * room]


def completed(graph: Graph, circuit: Edges, edges: Iterable[Edge], pull: Scores) -> Edges:
    """Edges, and what their writers need: where one reads nothing in the circuit, the edge of largest pull into each input."""
    way, open_ends = graph.none, list(edges)
    for edge in open_ends:
        way[edge] = True
    while open_ends:
        inputs = graph.inputs_of(graph.writers[open_ends.pop()[1]])
        if circuit[:, :, inputs].any():
            continue
        for reader in inputs:
            if not way[:, :, reader].any():
                best = np.where(graph.full[:, :, reader], pull[:, :, reader], -1.0)
                place, writer = np.unravel_index(best.argmax(), best.shape)
                edge = (int(place), int(writer), reader)
                way[edge] = True
                open_ends.append(edge)
    return way


def used(graph: Graph, way: Edges, circuit: Edges) -> Edges:
    """The edges of a way into what is read, in the end by the logits."""
    while True:
        left = way & read_by_circuit(graph, way | circuit)
        if left.sum() == way.sum():
            return way
        way = left


def read_by_circuit(graph: Graph, circuit: Edges) -> Bool[np.ndarray, " reader"]:
    """Readers whose parts are read in a circuit, and the logits."""
    found = np.zeros(len(graph.readers), dtype=bool)
    found[-1] = True
    for index, part in enumerate(graph.writers):
        if circuit[:, index].any():
            found[graph.inputs_of(part)] = True
    return found


def strongest(pull: Scores, most: int) -> list[Edge]:
    """Edges of largest pull, none where it is negative."""
    order = np.argsort(-pull, axis=None, kind="stable")[:most]
    return [tuple(map(int, np.unravel_index(at, pull.shape))) for at in order if pull.flat[at] >= 0]  # type: ignore[misc]


def _powers(most: int) -> list[int]:
    """2, 4, 8, ... up to the largest number."""
    return [2**power for power in range(1, most.bit_length()) if 2**power <= most]
