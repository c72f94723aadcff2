"""What prompts say about each edge: mean score, error, interval, and a test with false-discovery control.

Prompts are the sampling unit, as in `interp.circuits.evidence`. Scores prompt by prompt can be large: a bounded block of
edges is held in float64 at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import (
    CELLS,
    benjamini_hochberg,
    bootstrap_interval,
    is_varied,
    moments,
    sign_flip_p,
    smallest_p,
)
from interp.circuits.graph.graph import Graph, Scores
from interp.circuits.judging.selection import Selection
from interp.kernels.errors import InterpError, suggest

TESTS = ("t", "sign-flip")

PerExample = Float[np.ndarray, "example place writer reader"]


@dataclass(frozen=True, eq=False)
class EdgeEvidence:
    """What prompts say about each edge; 0 where the graph has no edge. Made by `edge_evidence`.

    Attributes:
        mean: mean score over prompts.
        standard_error: of the mean; nan with one prompt.
        low, high: ends of the bootstrap interval of the mean; nan where all prompts give one number.
        q: p of a mean of 0, two-sided, after false-discovery control over all edges.
        level: false-discovery rate, and 1 - coverage of the intervals.
        test: the test behind q.
        n: prompts.
        p_floor: the smallest p that the test can give.
    """

    graph: Graph
    mean: Scores
    standard_error: Scores
    low: Scores
    high: Scores
    q: Scores
    level: float
    test: str
    n: int
    p_floor: float

    @property
    def can_claim(self) -> bool:
        """Whether one edge alone could be selected with this number of prompts, were its effect as clear as can be."""
        return self.p_floor * self.graph.n_edges <= self.level

    def selected(self, level: float | None = None) -> Selection:
        """The edges with q at or below the level (that of the evidence where None), pruned."""
        return Selection.of(self.graph, self.graph.full & (self.q <= (self.level if level is None else level)))


def edge_evidence(
    graph: Graph,
    per_example: PerExample,
    *,
    test: str = "t",
    level: float = 0.05,
    n_boot: int = 1000,
    n_permutations: int = 9999,
    seed: int = 0,
) -> EdgeEvidence:
    """Mean, error, interval and q of each edge over prompts.

    Args:
        test: 't', Student's, for which means of prompts must be about normal; or 'sign-flip', for which scores need only
            be symmetric about 0 under the null, and whose p with n prompts is at least 2 / 2^n. An edge with one number
            in all prompts can't be tested, and has q = 1.
        n_permutations: sign flips at least; raised so that one edge among all can pass the false-discovery control.

    Raises:
        InterpError: E201 no such test; E206 scores of another shape; E207 a score that is not finite.
    """
    if test not in TESTS:
        raise InterpError("E201", f"no test {test!r}", fix=suggest(test, TESTS))
    n = n_examples(graph, per_example)
    flips = max(n_permutations, int(np.ceil(2 * graph.n_edges / level)))
    found = []
    for rows in _blocks(graph, per_example, n_boot):
        _, mean, error = moments(rows)
        low, high = bootstrap_interval(rows, level=level, n_boot=n_boot, seed=seed)
        p = _student_p(rows) if test == "t" else sign_flip_p(rows, n_permutations=flips, seed=seed)
        found.append(np.stack([mean, error, low, high, p]))
    *statistics, p = np.concatenate(found, axis=1)
    mean, error, low, high, q = map(graph.matrix, (*statistics, benjamini_hochberg(p)))
    floor = 0.0 if test == "t" else smallest_p(n, flips)
    return EdgeEvidence(graph, mean, error, low, high, q, level, test, n, floor)


def n_examples(graph: Graph, per_example: PerExample) -> int:
    """How many prompts there are.

    Raises:
        InterpError: E206 scores of another shape; E207 a score that is not finite.
    """
    if per_example.shape[1:] != graph.full.shape or not len(per_example):
        what = f"scores of shape {per_example.shape} for a graph of shape {graph.full.shape}"
        raise InterpError("E206", what, fix="give one score for each example, place, writer and reader")
    for number, scores in enumerate(per_example):
        if not np.isfinite(scores[graph.full]).all():
            raise InterpError("E207", "a score that is not finite", where=f"example {number}", fix="leave it out")
    return len(per_example)


def _blocks(graph: Graph, per_example: PerExample, n_boot: int) -> Iterable[Float[np.ndarray, "edge example"]]:
    """Scores of a few edges at a time."""
    where, flat = np.flatnonzero(graph.full), per_example.reshape(len(per_example), -1)
    step = max(1, CELLS // max(n_boot, len(per_example)))
    return (flat[:, where[start : start + step]].T.astype(np.float64) for start in range(0, len(where), step))


def _student_p(rows: Float[np.ndarray, "edge example"]) -> Float[np.ndarray, " edge"]:
    """Two-sided p of a mean of 0; 1 where nothing varies."""
    from scipy.stats import t

    n, mean, error = moments(rows)
    varied = is_varied(rows)
    return np.where(varied, 2 * t.sf(np.abs(mean) / np.where(varied, error, 1.0), n - 1), 1.0)
