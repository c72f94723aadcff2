"""What was measured of circuits: over sizes, under each ablation, over halves of the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.judging.curves import Area, curve
from interp.circuits.judging.faithfulness import Row

ENDS = np.array([0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Curves:
    """The metric of circuits of growing size, on the prompts that judge.

    Attributes:
        shares: of all edges, asked for.
        actual: edges that pruning left, for the ranking by size of the score and for the signed one.
        values: the metric of these circuits.
        full, empty: of the model, and with no edge in.
        beside: what says nothing of the mechanism -> share of the gap that it keeps at the first ranking's sizes, draw by
            draw: 'random' circuits, 'permuted scores' within classes of readers, 'magnitude' of what edges carry, and for
            methods by gradients 'permuted heads', scores of the model whose heads write through each other's weights.
    """

    shares: Float[np.ndarray, " size"]
    actual: Int[np.ndarray, "ranking size"]
    values: Float[np.ndarray, "ranking size prompt"]
    full: Float[np.ndarray, " prompt"]
    empty: Float[np.ndarray, " prompt"]
    beside: Mapping[str, Float[np.ndarray, "_ size"]]

    def faithful(self, metric: Float[np.ndarray, "*some"]) -> Float[np.ndarray, "*some"]:
        """Share of the gap that mean metrics keep."""
        full, empty = self.full.mean(), self.empty.mean()
        return np.asarray((metric - empty) / (full - empty))

    def kept(self, values: Float[np.ndarray, " prompt"], seed: int) -> Area:
        """Share of the gap that one circuit keeps, with its interval."""
        found = curve(np.stack([values, self.full]), self.full, self.empty, ENDS, ENDS, seed=seed)
        return Area(float(found.f[0]), float(found.low[0]), float(found.high[0]))


@dataclass(frozen=True)
class Measured:
    """The circuit under one replacement; f is nan where `note` says why.

    Attributes:
        taken_from: where the replacement comes from, in words.
        full, value, empty: mean metric of the model, of the circuit, and of no edge.
        f, low, high: share of the gap that the circuit keeps, with its interval.
    """

    replacement: str
    taken_from: str
    full: float
    value: float
    empty: float
    f: float
    low: float
    high: float
    note: str = ""

    @classmethod
    def of(cls, row: Row) -> Measured:
        """From what `faithfulness` gave."""
        full, value, empty = (float(one.mean()) for one in (row.full, row.values, row.empty))
        return cls(row.replacement, row.taken_from, full, value, empty, *row.f, row.note)


@dataclass(frozen=True)
class Steadiness:
    """How far the best edges by two halves of the prompts agree, over many ways to halve them.

    Attributes:
        n: edges that are compared.
        jaccard, low, high: share of the union of both sets that both have: mean, and where most pairs lie.
        chance: what random sets of n edges would give.
        spearman: rank correlation over all edges, mean.
    """

    n: int
    jaccard: float
    low: float
    high: float
    chance: float
    spearman: float
