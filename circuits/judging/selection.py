"""Circuits from scores of edges: the best n, all above a threshold, or grown from the logits.

Equal scores stand in the order of `graph.labels()`: by place, then by writer and by reader in the order of computation.
So the same scores give the same circuit on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.kernels.errors import InterpError

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which the MIB benchmark cuts circuits (Mueller et al. 2025, arXiv 2504.13151)."""


@dataclass(frozen=True, eq=False)
class Selection:
    """A circuit, and how much of what was asked for is left of it.

    Attributes:
        edges: the circuit, pruned: each edge leads from the embeddings to the logits.
        asked: edges before pruning.
        actual: edges of the circuit.
        total: edges of the graph.
    """

    edges: Edges
    asked: int
    actual: int
    total: int

    @classmethod
    def of(cls, graph: Graph, edges: Edges) -> Selection:
        """These edges, pruned."""
        kept = graph.pruned(edges)
        return cls(kept, int((edges & graph.full).sum()), int(kept.sum()), graph.n_edges)

    @property
    def asked_share(self) -> float:
        return self.asked / self.total

    @property
    def actual_share(self) -> float:
        return self.actual / self.total


def strengths(graph: Graph, scores: Scores, *, absolute: bool) -> Float[np.ndarray, " edge"]:
    """What edges are ranked by, in the order of `graph.labels()`.

    Raises:
        InterpError: E206 scores of another shape; E207 an edge without a number.
    """
    if scores.shape != graph.full.shape:
        what = f"scores of shape {scores.shape} for a graph of shape {graph.full.shape}"
        raise InterpError("E206", what, fix="give one score for each place, writer and reader of this graph")
    found = graph.vector(scores).astype(np.float64)
    if missing := np.flatnonzero(np.isnan(found)).tolist():
        where = graph.label(*(int(axis[missing[0]]) for axis in np.nonzero(graph.full)))
        raise InterpError("E207", f"{len(missing)} of {len(found)} edges have no score", where=where)
    return np.abs(found) if absolute else found


def best(graph: Graph, scores: Scores, n: int, *, absolute: bool = True) -> Edges:
    """The n edges of highest score, not pruned.

    Raises:
        InterpError: E203 more edges than the graph has; E206, E207 as `strengths`.
    """
    _check_count(graph, n)
    return _edges(graph, _order(graph, scores, absolute)[:n])


def top_n(graph: Graph, scores: Scores, n: int, *, absolute: bool = True) -> Selection:
    """The n edges of highest score, pruned.

    Args:
        absolute: by the size of the score; False: edges that hurt stand last.

    Raises:
        InterpError: as `best`.
    """
    return Selection.of(graph, best(graph, scores, n, absolute=absolute))


def above(graph: Graph, scores: Scores, threshold: float, *, absolute: bool = True) -> Selection:
    """All edges whose score is at least the threshold, pruned (E206, E207 as `strengths`)."""
    chosen = np.flatnonzero(strengths(graph, scores, absolute=absolute) >= threshold)
    return Selection.of(graph, _edges(graph, chosen))


def greedy(graph: Graph, scores: Scores, n: int, *, absolute: bool = True) -> Selection:
    """n edges grown from the logits, pruned.

    The next edge is always the best of those whose reader feeds a part that is in the circuit already; its writer is in
    from then on. Selection of EAP-IG (Hanna et al. 2024, arXiv 2403.17806). Circuits of growing n hold each other.

    Raises:
        InterpError: as `best`.
    """
    _check_count(graph, n)
    grown = islice(_grown(graph, _order(graph, scores, absolute)), n)
    return Selection.of(graph, _edges(graph, np.fromiter(grown, dtype=np.int64)))


def sizes(graph: Graph, shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """Numbers of edges at shares of all edges, rounded down as MIB does."""
    return tuple(int(share * graph.n_edges) for share in shares)


def _edges(graph: Graph, numbers: Int[np.ndarray, " chosen"]) -> Edges:
    """The edges of these numbers."""
    is_chosen, found = np.zeros(graph.n_edges, dtype=bool), graph.none
    is_chosen[numbers] = True
    found[graph.full] = is_chosen
    return found


def _check_count(graph: Graph, n: int) -> None:
    if not 0 <= n <= graph.n_edges:
        raise InterpError("E203", f"{n} edges asked of {graph.n_edges}", fix=f"ask for 0 to {graph.n_edges} edges")


def _order(graph: Graph, scores: Scores, absolute: bool) -> Int[np.ndarray, " edge"]:
    """Numbers of the edges, best first."""
    return np.argsort(-strengths(graph, scores, absolute=absolute), kind="stable")


def _grown(graph: Graph, order: Int[np.ndarray, " edge"]) -> Iterator[int]:
    """Numbers of the edges in the order in which they join."""
    places, writers, _ = np.nonzero(graph.full)
    incoming = _incoming(graph, order)
    heap = [
        (next(ranks), ranks) for place in range(len(graph.places)) for ranks in [incoming.pop((place, _last(graph)))]
    ]
    heapq.heapify(heap)
    present: set[tuple[int, int]] = set()
    while heap:
        rank, ranks = heapq.heappop(heap)
        edge = int(order[rank])
        yield edge
        if (following := next(ranks, None)) is not None:
            heapq.heappush(heap, (following, ranks))
        node = int(places[edge]), int(writers[edge])
        if node not in present:
            present.add(node)
            for opened in (incoming.pop(read, iter(())) for read in _inputs(graph, *node)):
                if (first := next(opened, None)) is not None:
                    heapq.heappush(heap, (first, opened))


def _incoming(graph: Graph, order: Int[np.ndarray, " edge"]) -> dict[tuple[int, int], Iterator[int]]:
    """For each place and reader, the ranks of its edges, best first."""
    places, _, readers = np.nonzero(graph.full)
    by_reader = np.lexsort((np.arange(len(order)), readers[order], places[order]))
    keys = places[order][by_reader] * len(graph.readers) + readers[order][by_reader]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    groups = np.split(by_reader, starts[1:])
    return {
        divmod(int(keys[start]), len(graph.readers)): iter(group.tolist())
        for start, group in zip(starts, groups, strict=True)
    }


def _inputs(graph: Graph, place: int, writer: int) -> list[tuple[int, int]]:
    """Places and readers that a part is computed from: keys and values come from all places."""
    part = graph.writers[writer]
    feeding = graph.inputs_of(part)
    own, moving = (feeding, []) if part.kind == "mlp" else (feeding[:1], feeding[1:])
    everywhere = range(len(graph.places))
    return [(place, read) for read in own] + [(other, read) for read in moving for other in everywhere]


def _last(graph: Graph) -> int:
    return len(graph.readers) - 1
