"""Completeness of a circuit: whether something outside of it stands in for its parts.

Wang et al. 2022 (arXiv 2211.00593, section 4): without any part K of the circuit, circuit and model must do equally, so
|m(C - K) - m(M - K)| must be small. K is drawn at random, and grown greedily.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from interp.circuits.evidence import bootstrap_interval
from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.groups import LEAST_TO_SPLIT
from interp.circuits.judging.findings import Edge, Finding, Rigour, Values, check_circuit
from interp.circuits.tables import number


@dataclass(frozen=True, eq=False)
class Gap:
    """|m(C - K) - m(M - K)|, a difference of means, on the judging half of the prompts.

    Attributes:
        kind: 'nothing', 'random' or 'greedy'.
        removed: K.
        value: of circuit less model, with its interval.
    """

    kind: str
    removed: Edges
    circuit: float
    model: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Completeness:
    """Every K that was tried, and the verdict on the worst."""

    gaps: tuple[Gap, ...]
    finding: Finding


def completeness(
    graph: Graph,
    edges: Edges,
    values: Values,
    rigour: Rigour | None = None,
    *,
    tolerance: float = 0.2,
    n_sets: int = 20,
    rounds: int = 5,
    tries: int = 20,
) -> Completeness:
    """Random and greedily chosen parts of the circuit taken from it and from the model.

    Half of the prompts choose the greedy ones, the other half judges all. Intervals hold together over all K (Bonferroni).

    Args:
        tolerance: share of |m(M) - m(nothing)| that a gap may reach.
        n_sets: random parts, each edge being in one with a chance that is drawn anew for each.
        rounds: edges of the greedy part, at most.
        tries: edges tried in each round, drawn at random.
    """
    rigour = rigour or Rigour()
    check_circuit(graph, edges)
    rng = np.random.default_rng([rigour.seed, 7])
    full, empty = values([graph.full, graph.none])
    choosing, judging = halves(len(full), rng)
    sets: list[tuple[str, Edges]] = [("nothing", graph.none)]
    sets += [("random", edges & (rng.random(edges.shape) < rng.random())) for _ in range(n_sets)]
    sets += [("greedy", one) for one in _greedy(graph, edges, values, choosing, rng, rounds, tries)]
    found = values([left for _, k in sets for left in (edges & ~k, graph.full & ~k)])[:, judging]
    gaps = tuple(
        _gap(kind, k, circuit, model, rigour.level / len(sets), rigour.seed)
        for (kind, k), circuit, model in zip(sets, found[::2], found[1::2], strict=True)
    )
    allowed = tolerance * abs(float((full - empty)[judging].mean()))
    return Completeness(gaps, _complete(gaps, allowed, tolerance))


def _complete(gaps: tuple[Gap, ...], allowed: float, tolerance: float) -> Finding:
    """The gap that is surest to be too large, or else the largest."""
    surest = max(gaps, key=lambda gap: (_beyond(gap) > allowed, abs(gap.value)))
    holds = _beyond(surest) <= allowed
    n = int(surest.removed.sum())
    words = "complete: no part that was tried is stood in for" if holds else f"incomplete: without {n} of its edges"
    if not holds:
        words += f" the circuit gives {number(surest.circuit)}, the model {number(surest.model)}"
    null = f"gap up to {number(allowed)} ({tolerance:.0%} of what there is)"
    return Finding("completeness", surest.value, surest.low, surest.high, null, float("nan"), holds, words)


def _beyond(gap: Gap) -> float:
    """The end of the interval that is nearer to 0, or 0 where it holds 0; the value itself where nothing varies."""
    if np.isnan(gap.low):
        return abs(gap.value)
    return max(gap.low, -gap.high, 0.0)


def _gap(kind: str, removed: Edges, circuit: np.ndarray, model: np.ndarray, level: float, seed: int) -> Gap:
    low, high = bootstrap_interval((circuit - model)[None], level=level, seed=seed)
    means = float(circuit.mean()), float(model.mean())
    return Gap(kind, removed, *means, means[0] - means[1], float(low[0]), float(high[0]))


def _greedy(
    graph: Graph,
    edges: Edges,
    values: Values,
    choosing: Bool[np.ndarray, " prompt"],
    rng: np.random.Generator,
    rounds: int,
    tries: int,
) -> Iterator[Edges]:
    """Parts of the circuit that grow by the edge that widens the gap most."""
    removed = graph.none
    for _ in range(rounds):
        left = np.argwhere(edges & ~removed)
        if not len(left):
            return
        parts = [_with(removed, edge) for edge in rng.permutation(left)[:tries]]
        found = values([kept & ~part for part in parts for kept in (edges, graph.full)])
        gaps = np.abs((found[::2] - found[1::2])[:, choosing].mean(1))
        removed = parts[int(gaps.argmax())]
        yield removed


def halves(n: int, rng: np.random.Generator) -> tuple[Bool[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]:
    """Prompts that choose and prompts that judge; all of them do both where there are fewer than four."""
    if n < LEAST_TO_SPLIT:
        return np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    choosing = np.zeros(n, dtype=bool)
    choosing[rng.permutation(n)[: n // 2]] = True
    return choosing, ~choosing


def _with(edges: Edges, edge: Edge) -> Edges:
    more = edges.copy()
    more[tuple(edge)] = True
    return more
