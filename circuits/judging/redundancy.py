"""What single effects miss: parts that stand in for each other, so that taking one away costs nothing.

1. Every part is taken out alone; those whose effect is not told from 0, or is small, are the candidates.
2. Pairs of candidates: what both cost beyond the sum of each, f(a, b) - f(a) - f(b). On half of the prompts it must be more
   than small; the other half judges those pairs, with false-discovery control over them.
3. Groups of any size: all candidates are out at once; if that costs more than the sum of each, they are put back as long as
   half of it stays, the largest lots first. What is left is a smallest group, found and judged on the same halves. So three
   parts that do one work are found too, which pairs cannot show.

f(S) = m(M) - m(M - S): positive where S helps. What is the same number on every prompt cannot be tested over prompts, and is
not claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import benjamini_hochberg, bootstrap_interval, moments, sign_flip_p, smallest_p
from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.judging.completeness import halves
from interp.circuits.judging.findings import Values
from interp.circuits.judging.joint import Joint, Redundancy, Searching
from interp.kernels.errors import InterpError

Promise = Callable[[Sequence[Edges]], Float[np.ndarray, "first second"]]
"""How promising pairs of parts are, by what they are made of; see `interp.circuits.judging.promise`."""


def heads_and_mlps(graph: Graph) -> dict[str, Edges]:
    """Each head and MLP as the edges that it writes."""
    found = {}
    for index, part in enumerate(graph.writers):
        if part.kind != "embed":
            edges = graph.none
            edges[:, index] = graph.full[:, index]
            found[part.label] = edges
    return found


def single_edges(graph: Graph) -> dict[str, Edges]:
    """Each edge by itself."""
    return {label: graph.of_labels([label]) for label in graph.labels()}


def redundancy(
    graph: Graph,
    parts: Mapping[str, Edges],
    values: Values,
    searching: Searching | None = None,
    *,
    promise: Promise | None = None,
) -> Redundancy:
    """Search parts for pairs and groups that stand in for each other.

    Args:
        parts: by name, such as `heads_and_mlps(graph)`; each the edges that are out with it.
        promise: which pairs are tried first where there are more than `max_pairs`.

    Raises:
        InterpError: E205 more pairs than `max_pairs`, and no promise.
    """
    search = _Search(graph, parts, values, searching or Searching())
    pairs = list(combinations(search.idle, 2))
    tried = search.promising(promise, pairs) if len(pairs) > search.asked.max_pairs else pairs
    judged = search.screened(tried)
    found = sorted(search.joints(judged), key=lambda one: -abs(one.interaction))
    n_judging = int(search.judging.sum())
    return Redundancy(
        labels=tuple(search.labels),
        effects=search.effects.mean(1),
        candidates=tuple(search.labels[index] for index in search.idle),
        gap=search.gap,
        level=search.asked.level,
        together=search.joints([tuple(search.idle)])[0] if len(search.idle) > 1 else None,
        pairs=tuple(found),
        n_pairs=len(pairs),
        n_tried=len(tried),
        n_judging=n_judging,
        p_floor=smallest_p(n_judging, search.flips(len(judged))),
        groups=tuple(search.groups()),
    )


class _Search:
    """One search: what parts do alone, and what has been asked of several."""

    def __init__(self, graph: Graph, parts: Mapping[str, Edges], values: Values, asked: Searching) -> None:
        self.graph, self.values, self.asked = graph, values, asked
        self.labels, self.masks = list(parts), list(parts.values())
        self.full, empty = values([graph.full, graph.none])
        self.gap = float((self.full - empty).mean())
        self.floor = asked.floor * abs(self.gap)
        self.effects = self.without([(index,) for index in range(len(self.masks))])
        low, high = bootstrap_interval(self.effects, level=asked.level, seed=asked.seed)
        ends = np.where(np.isnan(low), np.abs(self.effects.mean(1)), np.maximum(np.abs(low), np.abs(high)))
        is_idle = (ends <= self.floor) | ((low <= 0) & (high >= 0))
        self.idle: list[int] = np.flatnonzero(is_idle).tolist()
        self.choosing, self.judging = halves(len(self.full), np.random.default_rng([asked.seed, 9]))

    def without(self, sets: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "set prompt"]:
        """f of each set of parts."""
        return self.full - self.values([self._kept(one) for one in sets])

    def _kept(self, members: Sequence[int]) -> Edges:
        out = self.graph.none
        for index in members:
            out |= self.masks[index]
        return self.graph.full & ~out

    def interactions(self, sets: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "set prompt"]:
        """f(S) less the sum of its members' f, prompt by prompt."""
        alone = np.stack([self.effects[list(one)].sum(0) for one in sets])
        return self.without(sets) - alone

    def screened(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Pairs that do more, or less, together than their sum by more than the floor, on the prompts that choose."""
        if not pairs:
            return []
        means = self.interactions(pairs)[:, self.choosing].mean(1)
        return [pair for pair, mean in zip(pairs, means, strict=True) if abs(mean) > self.floor]

    def flips(self, n: int) -> int:
        """Sign flips, so many that one set among n can pass the false-discovery control."""
        return max(9999, int(np.ceil(2 * n / self.asked.level)))

    def joints(self, sets: Sequence[tuple[int, ...]]) -> list[Joint]:
        """What sets do together, over the prompts that judge."""
        if not sets:
            return []
        beyond, alone = self.interactions(sets)[:, self.judging], self.effects[:, self.judging].mean(1)
        p = sign_flip_p(beyond, n_permutations=self.flips(len(sets)), seed=self.asked.seed)
        low, high = bootstrap_interval(beyond, level=self.asked.level, seed=self.asked.seed)
        numbers = zip(moments(beyond)[1], low, high, benjamini_hochberg(p), strict=True)
        return [self._joint(one, alone, *map(float, each)) for one, each in zip(sets, numbers, strict=True)]

    def _joint(
        self,
        members: tuple[int, ...],
        alone: Float[np.ndarray, " part"],
        mean: float,
        low: float,
        high: float,
        q: float,
    ) -> Joint:
        singles = tuple(float(alone[index]) for index in members)
        is_redundant = q <= self.asked.level and (low > self.floor or high < -self.floor)
        labels = tuple(self.labels[index] for index in members)
        return Joint(labels, singles, mean + sum(singles), mean, low, high, q, is_redundant)

    def promising(self, promise: Promise | None, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The pairs that are tried of too many."""
        if promise is None:
            what = f"{len(pairs)} pairs of {len(self.idle)} parts, and {self.asked.max_pairs} may be tried"
            raise InterpError(
                "E205", what, where="redundancy", fix="raise max_pairs, or give a promise to order them by"
            )
        found = promise([self.masks[index] for index in self.idle])
        either = np.maximum(found, found.T)[np.triu_indices(len(self.idle), 1)]
        order = np.argsort(-either, kind="stable")[: self.asked.max_pairs]
        return [pairs[index] for index in sorted(order.tolist())]

    def groups(self) -> list[Joint]:
        """Smallest groups, one after the other; what is in one is left alone from then on."""
        left, found = list(self.idle), list[tuple[int, ...]]()
        while len(found) < self.asked.max_groups and len(left) > 1:
            whole = self._beyond(left)
            if abs(whole) <= self.floor:
                break
            group = self._smallest(left, whole)
            found.append(tuple(group))
            left = [index for index in left if index not in group]
        return [one for one in self.joints(found) if one.is_redundant]

    def _beyond(self, members: Sequence[int]) -> float:
        return float(self.interactions([tuple(members)])[0, self.choosing].mean())

    def _smallest(self, members: list[int], whole: float) -> list[int]:
        """Put parts back in lots, halving them, as long as half of what all do beyond their sum stays."""
        lot = len(members) // 2
        while lot:
            start = 0
            while start < len(members):
                fewer = members[:start] + members[start + lot :]
                if len(fewer) > 1 and self._beyond(fewer) * np.sign(whole) >= abs(whole) / 2:
                    members = fewer
                else:
                    start += lot
            lot //= 2
        return members
