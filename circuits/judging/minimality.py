"""Minimality of a circuit: whether each of its edges does something.

An edge may do nothing alone and much after others are gone (Wang et al. 2022, arXiv 2211.00593, section 4), and it must do
more than an edge that was put in at random (Shi et al. 2024, arXiv 2410.13032).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.judging.baselines import of_size
from interp.circuits.judging.findings import Edge, Finding, Rigour, Values, check_circuit
from interp.circuits.tables import Tabled, listed, number

NAN = float("nan")


@dataclass(frozen=True)
class EdgeNeed:
    """One edge of a circuit.

    Attributes:
        drop: mean m(C) - m(C - e).
        largest: mean m(C - K) - m(C - K - e) of the way K that makes it largest in size; `way` names K.
        beaten: share of inflated circuits whose random edge does less; p that the true share is q* or more.
        is_idle: p at or below the level, divided by the number of edges.
    """

    label: str
    drop: float
    largest: float
    way: str
    beaten: float
    p: float
    is_idle: bool


@dataclass(frozen=True, eq=False)
class Minimality(Tabled):
    """Every edge of a circuit, in the order of the graph, and the verdict."""

    edges: tuple[EdgeNeed, ...]
    finding: Finding

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        rows = [
            [one.label, number(one.drop), number(one.largest), one.way, f"{one.beaten:.0%}", number(one.p)]
            for one in self.edges
        ]
        return self.finding.words, ["edge", "drop", "largest drop", "without", "beats", "p"], rows


def minimality(
    graph: Graph, edges: Edges, values: Values, rigour: Rigour | None = None, *, n_ways: int = 2
) -> Minimality:
    """What each edge does, alone and with others away, beside edges put in at random.

    The null of an edge: it does more than the random edge of an inflated circuit with a chance of q* or more. An inflated
    circuit is this one with the shortest random addition that holds together; one of the added edges, drawn at random, is
    taken out again. What an edge does is the mean squared change, prompt by prompt.

    Args:
        n_ways: random halves of the circuit that are taken away with the edge, beside the other edges of its reader and of
            its writer.
    """
    rigour = rigour or Rigour()
    check_circuit(graph, edges)
    rng = np.random.default_rng([rigour.seed, 8])
    where, labels = np.argwhere(edges), graph.labels(edges)
    circuit, *rest = values([edges, *(_without(edges, edge) for edge in where)])
    own = ((circuit - np.stack(rest)) ** 2).mean(1)
    inflated = _inflated(graph, edges, values, rng, rigour.n_random)
    drops = (circuit - np.stack(rest)).mean(1)
    halves = [edges & (rng.random(edges.shape) < 0.5) for _ in range(n_ways)]
    ways = [_ways(edges, edge, halves) for edge in where]
    largest = _largest(edges, where, ways, values)
    found = []
    for index, label in enumerate(labels):
        largest_drop, way = max([(float(drops[index]), "nothing"), *largest[index]], key=lambda one: abs(one[0]))
        wins = int((own[index] > inflated).sum())
        p = _fewer(wins, rigour)
        is_idle = p <= rigour.level / len(labels)
        beaten = wins / rigour.n_random
        found.append(EdgeNeed(label, float(drops[index]), largest_drop, way, beaten, p, is_idle))
    return Minimality(tuple(found), _minimal(found, rigour))


def _minimal(found: list[EdgeNeed], rigour: Rigour) -> Finding:
    idle = [one.label for one in found if one.is_idle]
    words = "minimal: no edge is told from a needed one" if not idle else f"not minimal: {listed(idle)}"
    p = min(1.0, min(one.p for one in found) * len(found))
    null = f"every edge does more than {rigour.quantile:.0%} of edges put in at random"
    least = min(one.beaten for one in found)
    return Finding("minimality", least, NAN, NAN, null, p, not idle, words)


def _fewer(wins: int, rigour: Rigour) -> float:
    """p of so few wins where the chance of one is q*."""
    from scipy.stats import binomtest

    return float(binomtest(wins, rigour.n_random, rigour.quantile, alternative="less").pvalue)


def _inflated(
    graph: Graph, edges: Edges, values: Values, rng: np.random.Generator, n: int
) -> Float[np.ndarray, " inflation"]:
    """What a random edge of the addition does in each inflated circuit."""
    inside = np.flatnonzero(edges[graph.full])
    outside = np.flatnonzero(~edges[graph.full])
    runs: list[Edges] = []
    for _ in range(n):
        larger = of_size(graph, np.concatenate([inside, rng.permutation(outside)]), len(inside) + 1)
        added = np.argwhere(larger & ~edges)
        if not len(added):  # the circuit is the graph: nothing can be put in
            return np.zeros(n)
        runs += [larger, _without(larger, added[rng.integers(len(added))])]
    found = values(runs)
    return np.asarray(((found[::2] - found[1::2]) ** 2).mean(1))


def _ways(edges: Edges, edge: Edge, halves: list[Edges]) -> list[tuple[str, Edges]]:
    """What is taken away together with an edge: never the edge itself."""
    place, writer, reader = edge
    same_reader, same_writer = np.zeros_like(edges), np.zeros_like(edges)
    same_reader[place, :, reader] = edges[place, :, reader]
    same_writer[place, writer] = edges[place, writer]
    ways = [("its reader's others", same_reader), ("its writer's others", same_writer)]
    ways += [(f"random half {index + 1}", half) for index, half in enumerate(halves)]
    return [(name, _without(away, edge)) for name, away in ways if _without(away, edge).any()]


def _largest(
    edges: Edges, where: np.ndarray, ways: list[list[tuple[str, Edges]]], values: Values
) -> list[list[tuple[float, str]]]:
    """Of each edge, the drop in each way."""
    runs = [
        left
        for edge, some in zip(where, ways, strict=True)
        for _, away in some
        for left in (edges & ~away, _without(edges & ~away, edge))
    ]
    found = iter(values(runs).mean(1))
    return [[(float(next(found) - next(found)), name) for name, _ in some] for some in ways]


def _without(edges: Edges, edge: Edge) -> Edges:
    fewer = edges.copy()
    fewer[tuple(edge)] = False
    return fewer
