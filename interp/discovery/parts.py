"""Heads and MLPs of a circuit: what each reads and writes in it, and what the circuit keeps without it.

A part is out when all edges that it writes are. Beside it stand circuits that lack as many edges that other heads and MLPs
write, drawn at random: a part that writes many edges costs much for their number alone. Edges out of the embeddings are
never drawn: one of them may feed the whole circuit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.judging.curves import Area
from interp.circuits.judging.findings import Values

if TYPE_CHECKING:
    from interp.discovery.result import Circuit

MOST_DRAWS = 20
"""Random sets of edges for each part, at most."""

Scored = tuple[str, float]
"""What stands at the other end of an edge, and the edge's score."""


@dataclass(frozen=True, eq=False)
class Without:
    """The metric of a circuit without each of its parts, on the prompts that judge, in the order of `members`.

    Attributes:
        values: without the edges that the part writes.
        random: mean over prompts, without as many edges that other parts write; nan where there are not as many.
    """

    values: Float[np.ndarray, "part prompt"]
    random: Float[np.ndarray, "part draw"]

    @classmethod
    def of(cls, graph: Graph, edges: Edges, values: Values, n_random: int, seed: int) -> Without:
        """Run them, in one batch of circuits.

        Args:
            n_random: random circuits that may be run, shared out over the parts.
        """
        rng, parts = np.random.default_rng([seed, 11]), members(graph, edges)
        n_draws = min(MOST_DRAWS, n_random // max(1, len(parts)))
        written = [_written(edges, [part]) for part in parts]
        every = _written(edges, parts)
        drawn = [_drawn(every & ~own, int(own.sum()), n_draws, rng) for own in written]
        out = [*written, *(one for some in drawn for one in some)]
        found = values([edges & ~one for one in out])
        random, rest = np.full((len(parts), n_draws), np.nan), iter(found[len(parts) :].mean(1))
        for row, some in enumerate(drawn):
            random[row, : len(some)] = [next(rest) for _ in some]
        return cls(found[: len(parts)], random)


def members(graph: Graph, edges: Edges) -> list[int]:
    """Heads and MLPs that write an edge of a circuit: numbers of writers, in the order of the graph."""
    writes = np.any(edges, axis=(0, 2))
    return [index for index, part in enumerate(graph.writers) if part.kind != "embed" and writes[index]]


def _written(edges: Edges, writers: Sequence[int]) -> Edges:
    found = np.zeros_like(edges)
    found[:, writers] = edges[:, writers]
    return found


def _drawn(among: Edges, n: int, draws: int, rng: np.random.Generator) -> list[Edges]:
    """Random sets of n of some edges; none where there are fewer."""
    where, found = np.flatnonzero(among), []
    for _ in range(draws if len(where) >= n else 0):
        one = np.zeros(among.size, dtype=bool)
        one[rng.choice(where, n, replace=False)] = True
        found.append(one.reshape(among.shape))
    return found


@dataclass(frozen=True)
class PartOfCircuit:
    """One head or MLP of a circuit.

    Attributes:
        label: `L1H2`, `M1`.
        names: what scorers call it; empty where they were not asked.
        reads: 'q', 'k', 'v' or 'mlp' -> writers of the circuit's edges into it, the largest score first. Heads that share
            keys and values share these edges.
        writes: readers of its edges, likewise.
        mass: sum of the sizes of the scores of the edges that it writes.
        share: of the sum over all edges of the circuit.
        kept: share of the metric's gap that the circuit keeps without it, with its interval.
        random: the same without as many random edges of other parts, draw by draw; empty where there are not as many.
    """

    label: str
    kind: str
    names: tuple[str, ...]
    reads: Mapping[str, tuple[Scored, ...]]
    writes: tuple[Scored, ...]
    mass: float
    share: float
    kept: Area
    random: tuple[float, ...]

    @property
    def n_in(self) -> int:
        """Edges of the circuit into it."""
        return sum(map(len, self.reads.values()))

    @property
    def as_costly(self) -> int:
        """Draws without which the circuit keeps as little as without this part, or less."""
        return sum(one <= self.kept.value for one in self.random)

    @property
    def stands_out(self) -> bool:
        """Whether it costs more than every random set of edges."""
        return bool(self.random) and not self.as_costly


def parts_of(found: Circuit) -> tuple[PartOfCircuit, ...]:
    """Every part of a circuit, the one that costs most first."""
    total = float(np.abs(found.scores[found.edges]).sum()) or 1.0
    rows = [_part(found, row, writer, total) for row, writer in enumerate(members(found.graph, found.edges))]
    return tuple(sorted(rows, key=lambda one: one.kept.value))


def _part(found: Circuit, row: int, writer: int, total: float) -> PartOfCircuit:
    graph, part = found.graph, found.graph.writers[writer]
    own = np.abs(found.scores[:, writer][found.edges[:, writer]])
    random = found.without.random[row]
    return PartOfCircuit(
        label=part.label,
        kind=part.kind,
        names=found.names.get(part.label, ()),
        reads={graph.readers[index].part: _ends(found, None, index) for index in graph.inputs_of(part)},
        writes=_ends(found, writer, None),
        mass=float(own.sum()),
        share=float(own.sum()) / total,
        kept=found.curves.kept(found.without.values[row], found.run.seeds["evidence"]),
        random=tuple(found.curves.faithful(random[~np.isnan(random)]).tolist()),
    )


def _ends(found: Circuit, writer: int | None, reader: int | None) -> tuple[Scored, ...]:
    """Other ends of the circuit's edges at a writer or at a reader, the largest score first."""
    graph = found.graph
    at = [
        (int(place), int(one), int(other))
        for place, one, other in np.argwhere(found.edges)
        if (writer is None or one == writer) and (reader is None or other == reader)
    ]
    at.sort(key=lambda edge: -abs(float(found.scores[edge])))
    return tuple((_end(graph, edge, is_reader=reader is None), float(found.scores[edge])) for edge in at)


def _end(graph: Graph, edge: Sequence[int], *, is_reader: bool) -> str:
    place, writer, reader = edge
    name = graph.readers[reader].label if is_reader else graph.writers[writer].label
    return f"{name}@{graph.places[place]}" if graph.places[place] else name
