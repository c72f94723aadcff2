"""How much of two circuits is the same, beside what random circuits of equal sizes would share.

The denominator decides how large an overlap looks, so all are given: both circuits, the smaller one, and their union. Two
chances stand beside them. One draws both circuits at random from everything the graph has. The other, stricter, keeps how
many each has in every class (of edges: place, layer and kind of writer, layer and part of reader; of nodes: place, layer and
kind), so that two circuits do not agree only because both are, say, at the end of the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.tables import number
from interp.kernels.errors import InterpError


@dataclass(frozen=True)
class Overlap:
    """What two circuits share.

    Attributes:
        what: 'edges', or 'nodes': heads and MLPs that write an edge of the circuit, place by place.
        first, second: how many each circuit has.
        total: how many the graph has.
        shared: how many are in both.
        expected: how many random circuits of these sizes share on average (hypergeometric).
        p: chance that they share so many or more; exact.
        matched: the average with the numbers in each class kept; exact.
        p_matched: the upper tail of that, (r + 1) / (m + 1) where r of m random circuits share so many or more.
        chance_of_union: average of `of_union` for random circuits of these sizes; exact.
    """

    what: str
    first: int
    second: int
    total: int
    shared: int
    expected: float
    p: float
    matched: float
    p_matched: float
    chance_of_union: float

    @property
    def of_first(self) -> float:
        """Share of the first circuit; nan where it is empty. Likewise the others."""
        return _share(self.shared, self.first)

    @property
    def of_second(self) -> float:
        return _share(self.shared, self.second)

    @property
    def of_smaller(self) -> float:
        return _share(self.shared, min(self.first, self.second))

    @property
    def of_union(self) -> float:
        """Jaccard's index."""
        return _share(self.shared, self.first + self.second - self.shared)

    def __str__(self) -> str:
        smaller = min(self.first, self.second)
        return (
            f"{self.shared} {self.what} shared by circuits of {self.first} and {self.second} of {self.total}: "
            f"{number(self.of_smaller)} of the smaller ({smaller}), {number(self.of_union)} of the union "
            f"({self.first + self.second - self.shared}); by chance {number(self.expected)}, p {number(self.p)}; "
            f"in the same layers {number(self.matched)}, p {number(self.p_matched)}"
        )


def edge_overlap(
    graph: Graph, first: Edges, second: Edges, *, of: Graph | None = None, n_draws: int = 9999, seed: int = 0
) -> Overlap:
    """Edges that are in both circuits.

    Args:
        of: graph of the second circuit, where it is of another model.
        n_draws: random circuits behind `p_matched`.

    Raises:
        InterpError: E205 graphs of different shape; E206 circuits of another shape than the graph.
    """
    _check(graph, of, first, second)
    classes = _numbered([_edge_class(graph, *map(int, where)) for where in zip(*np.nonzero(graph.full), strict=True)])
    return _overlap("edges", first[graph.full], second[graph.full], classes, n_draws, seed)


def node_overlap(
    graph: Graph, first: Edges, second: Edges, *, of: Graph | None = None, n_draws: int = 9999, seed: int = 0
) -> Overlap:
    """Heads and MLPs, at each place, that write an edge of both circuits; embeddings, which all circuits have, don't count.

    Arguments and errors as for `edge_overlap`. Random circuits are sets of nodes of equal sizes.
    """
    _check(graph, of, first, second)
    counted = np.array([part.kind != "embed" for part in graph.writers])
    nodes = [(place, part.layer, part.kind) for place in graph.places for part in graph.writers if part.kind != "embed"]
    one, two = (edges.any(2)[:, counted].ravel() for edges in (first & graph.full, second & graph.full))
    return _overlap("nodes", one, two, _numbered(nodes), n_draws, seed)


def chance_jaccard(total: int, first: int, second: int) -> float:
    """Average share of the union that two random sets of these sizes have in common; exact; nan where both are empty."""
    from scipy.stats import hypergeom

    if not first + second:
        return float("nan")
    shared = np.arange(max(0, first + second - total), min(first, second) + 1)
    return float((hypergeom.pmf(shared, total, first, second) * shared / (first + second - shared)).sum())


def _overlap(
    what: str,
    first: Bool[np.ndarray, " item"],
    second: Bool[np.ndarray, " item"],
    classes: Int[np.ndarray, " item"],
    n_draws: int,
    seed: int,
) -> Overlap:
    from scipy.stats import hypergeom

    total, a, b, shared = len(first), int(first.sum()), int(second.sum()), int((first & second).sum())
    sizes, ones, twos = (np.bincount(classes, kind).astype(np.int64) for kind in (np.ones(total), first, second))
    drawn = _matched_draws(sizes, ones, twos, n_draws, seed)
    return Overlap(
        what, a, b, total, shared,
        expected=a * b / total,
        p=float(hypergeom.sf(shared - 1, total, a, b)),
        matched=float((ones * twos / sizes).sum()),
        p_matched=(int((drawn >= shared).sum()) + 1) / (n_draws + 1),
        chance_of_union=chance_jaccard(total, a, b),
    )  # fmt: skip


def _matched_draws(
    sizes: Int[np.ndarray, " group"],
    ones: Int[np.ndarray, " group"],
    twos: Int[np.ndarray, " group"],
    n_draws: int,
    seed: int,
) -> Float[np.ndarray, " draw"]:
    """Overlap of the first circuit with permutations of the second within its classes.

    What a permutation within one class shares is hypergeometric, so no permutation is made.
    """
    rng, found = np.random.default_rng([seed, 3]), np.zeros(n_draws)
    for size, one, two in zip(sizes.tolist(), ones.tolist(), twos.tolist(), strict=True):
        if one and two:
            found += rng.hypergeometric(one, size - one, two, size=n_draws)
    return found


def _edge_class(graph: Graph, place: int, writer: int, reader: int) -> Hashable:
    source, target = graph.writers[writer], graph.readers[reader]
    return place, source.layer, source.kind, target.layer, target.part


def _numbered(classes: Sequence[Hashable]) -> Int[np.ndarray, " item"]:
    """A number for each class."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(one, len(numbers)) for one in classes], dtype=np.int64)


def check_same(graph: Graph, other: Graph) -> None:
    """Raise E205 unless two graphs have equal parts and places."""
    for name in ("layers", "writers", "readers", "places"):
        if getattr(graph, name) != getattr(other, name):
            what = f"the graphs differ in their {name}: {graph!r} and {other!r}"
            raise InterpError("E205", what, fix="compare circuits of models of one shape, or single edges by name")


def _check(graph: Graph, other: Graph | None, *circuits: Edges) -> None:
    if other is not None:
        check_same(graph, other)
    for edges in circuits:
        if edges.shape != graph.full.shape:
            raise InterpError("E206", f"a circuit of shape {edges.shape} for a graph of shape {graph.full.shape}")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
