"""How well scores of edges find the edges that are known to be true, over the full ranking.

Where most true negatives score exactly 0 the area under the ROC curve is high for every method, and average precision
tells methods apart. Rounding gives such edges tiny scores; with a relative floor they count as tied at 0.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.judging.selection import SHARES, greedy, strengths
from interp.kernels.errors import InterpError, suggest

VARIANTS = ("full-ranking", "official-code")


def auroc(
    graph: Graph,
    scores: Scores,
    truth: Edges,
    *,
    absolute: bool = True,
    floor: float = 0.0,
    variant: str = "full-ranking",
) -> float:
    """Area under the ROC curve: the share of (true, false) pairs of edges in the right order, ties counted half.

    Mann and Whitney's U over the number of pairs; 0.5 is chance.

    Args:
        absolute: rank by the size of the scores.
        floor: sizes below this share of the largest one count as 0.
        variant: 'official-code': what MIB computes for InterpBench (arXiv 2504.13151): trapezes through the rates of
            ten circuits of `SHARES` of the edges, grown from the logits by size and pruned, divided by the last rate of
            false positives. Known defects: it has no point at (0, 0), so that a perfect ranking can miss 1; it knows
            the ranking at ten cuts alone; edges that are pruned or wait for their reader do not count where they are
            ranked; ties fall as they stand. It has neither sign nor floor. (Edges that are missing from a file count as
            found there; here all edges have scores.)

    Raises:
        InterpError: E201 no such variant; E205 a truth of no or all edges, or of edges that do not exist, a floor
            outside 0 to 1, a sign or a floor with the official code; E206, E207 as `strengths`.
    """
    if variant not in VARIANTS:
        raise InterpError("E201", f"no variant {variant!r} of the area", fix=suggest(variant, VARIANTS))
    if variant == "official-code":
        if floor or not absolute:
            raise InterpError("E205", "the official code has neither floor nor sign", fix="variant='full-ranking'")
        return _official(graph, scores, truth)
    from scipy.stats import rankdata

    is_true, values = _labelled(graph, truth), _floored(graph, scores, absolute, floor)
    n_true, n_false = int(is_true.sum()), int((~is_true).sum())
    wins = float(rankdata(values)[is_true].sum()) - n_true * (n_true + 1) / 2
    return wins / (n_true * n_false)


def average_precision(
    graph: Graph, scores: Scores, truth: Edges, *, absolute: bool = True, floor: float = 0.0
) -> float:
    """Mean, over true edges, of the share of true edges among those ranked up to it.

    Equal scores stand in random order: the expected value over all orders, in closed form. (scikit-learn instead takes
    a group of ties as one step.) Where no scores are equal the two are the same.

    Args:
        absolute, floor: as for `auroc`.

    Raises:
        InterpError: as `auroc`.
    """
    return _expected_precision(_floored(graph, scores, absolute, floor), _labelled(graph, truth))


def chance_precision(graph: Graph, truth: Edges) -> float:
    """Average precision of a random ranking: a little above the share of true edges (E205, E206 as `auroc`)."""
    return _expected_precision(np.zeros(graph.n_edges), _labelled(graph, truth))


def _labelled(graph: Graph, truth: Edges) -> Bool[np.ndarray, " edge"]:
    """Whether each edge is true."""
    if truth.shape != graph.full.shape:
        what = f"truth of shape {truth.shape} for a graph of shape {graph.full.shape}"
        raise InterpError("E206", what, fix="make it by graph.of_labels")
    if outside := int((truth & ~graph.full).sum()):
        raise InterpError("E205", f"{outside} true edges are not in the graph", fix="make the truth by graph.of_labels")
    found: np.ndarray = truth[graph.full]
    if found.all() or not found.any():
        which = "all edges are" if found.all() else "no edge is"
        raise InterpError("E205", f"{which} true: no ranking is better than another", fix="give a truth of some edges")
    return found


def _floored(graph: Graph, scores: Scores, absolute: bool, floor: float) -> Float[np.ndarray, " edge"]:
    """What edges are ranked by, small ones at 0."""
    values = strengths(graph, scores, absolute=absolute)
    if not floor:
        return values
    if not 0 < floor < 1:
        raise InterpError(
            "E205", f"a relative floor of {floor}", fix="give a share of the largest score, from 0 to below 1"
        )
    size = np.abs(values)
    if not np.isfinite(size).all():
        raise InterpError("E207", "an infinite score leaves no relative floor", fix="floor=0")
    return np.where(size < floor * size.max(), 0.0, values)


def _expected_precision(values: Float[np.ndarray, " edge"], is_true: Bool[np.ndarray, " edge"]) -> float:
    """Average precision where ties stand in random order.

    The j-th of m tied edges, t of them true, is true with chance t / m, and then has (j - 1) (t - 1) / (m - 1) true ones
    before it in its group, on average.
    """
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], is_true[order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts, n_true = np.diff(starts, append=len(ordered)), np.add.reduceat(hits, starts)
    size, positives = np.repeat(counts, counts), np.repeat(n_true, counts)
    before = np.repeat(np.cumsum(n_true) - n_true, counts)
    step = np.arange(len(ordered)) - np.repeat(starts, counts)
    found = before + 1 + step * (positives - 1) / np.maximum(size - 1, 1)
    return float((positives / size * found / np.arange(1, len(ordered) + 1)).sum() / hits.sum())


def _official(graph: Graph, scores: Scores, truth: Edges) -> float:
    """MIB's area; sizes are rounded up, because its loop counts a fraction of an edge down to 0."""
    is_true = _labelled(graph, truth)
    cuts = [greedy(graph, scores, math.ceil(share * graph.n_edges)).edges[graph.full] for share in SHARES]
    hit = np.array([cut[is_true].mean() for cut in cuts])
    missed = np.array([cut[~is_true].mean() for cut in cuts])
    return float(np.trapezoid(hit, missed / missed[-1]))
