"""What tests of a circuit say, how they are set, and what they run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.tables import Tabled, interval, number
from interp.kernels.errors import InterpError

Edge = Int[np.ndarray, "3"]
"""Place, writer and reader."""

Values = Callable[[Sequence[Edges]], Float[np.ndarray, "circuit prompt"]]
"""The metric under circuits, as `interp.circuits.judging.trials.Trials` gives it."""


@dataclass(frozen=True)
class Finding:
    """What one test says.

    Attributes:
        test: its name.
        value: the number that is tested; `low` and `high` are the ends of its interval, nan without one.
        null: what it is held against, in words.
        p: of the null; nan where the verdict is the interval's.
        holds: whether the circuit stands; None where nothing could be tested.
        words: the verdict.
    """

    test: str
    value: float
    low: float
    high: float
    null: str
    p: float
    holds: bool | None
    words: str


@dataclass(frozen=True)
class Findings(Tabled):
    """Several tests of one circuit."""

    found: tuple[Finding, ...]

    def __getitem__(self, test: str) -> Finding:
        return next(one for one in self.found if one.test == test)

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        rows = [
            [one.test, number(one.value), interval(one.low, one.high), one.null, number(one.p), one.words]
            for one in self.found
        ]
        return "tests of the circuit", ["test", "value", "interval", "null", "p", "verdict"], rows


@dataclass(frozen=True)
class Rigour:
    """How circuits are tested.

    Attributes:
        level: of every test, and 1 - coverage of the intervals.
        n_random: random circuits, or random inflations.
        quantile: q*, the share of them that has to be beaten.
        margin: of equivalence: how far from 1/2 the chance to do better may be.
        seed: of everything that is drawn.
    """

    level: float = 0.05
    n_random: int = 100
    quantile: float = 0.9
    margin: float = 0.1
    seed: int = 0


def check_circuit(graph: Graph, edges: Edges) -> None:
    """Refuse what cannot be tested (E205): no edge, or edges that pruning would take out."""
    if not edges.any():
        raise InterpError("E205", "the circuit has no edge", fix="choose a larger circuit")
    if (graph.pruned(edges) != edges).any():
        raise InterpError("E205", "some edges of the circuit lead nowhere", fix="prune it first: graph.pruned(edges)")


def exact_interval(wins: int, n: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's, of a share."""
    from scipy.stats import binomtest

    ends = binomtest(wins, n).proportion_ci(1 - level, method="exact")
    return float(ends.low), float(ends.high)
