"""Scores of several methods in one: by ranks, by standardised scores, or by the least or the largest of them.

Ensembles of attribution methods, and attribution as a warm start for learned masks, won the circuit track of the
BlackboxNLP 2025 shared task (arXiv 2511.18409, 2510.06811).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from interp.circuits.graph.graph import Graph, Scores
from interp.kernels.errors import InterpError, suggest

Table = Float[np.ndarray, "method edge"]
KEEP = 0.9
"""Most that a warm start lets a mask be, and one less it the least: beyond that, gradients are gone."""


def ranks(table: Table) -> Table:
    """Ranks of each row from 0 (least) to 1; equal scores share the mean of their ranks."""
    return (rankdata(table, axis=1) - 1) / max(1, table.shape[1] - 1)


def standardised(table: Table) -> Table:
    """Each row over its root mean square, so that 0 stays 0: signs are kept."""
    scale = np.sqrt((table**2).mean(1, keepdims=True))
    return table / np.where(scale > 0, scale, 1)


RULES: Mapping[str, Callable[[Table], Float[np.ndarray, " edge"]]] = {
    "ranks": lambda table: ranks(table).mean(0),
    "mean": lambda table: standardised(table).mean(0),
    "min": lambda table: standardised(table).min(0),
    "max": lambda table: standardised(table).max(0),
}
"""How scores are put together; all but 'ranks' keep the meaning of the sign."""


def combined(graph: Graph, scores: Sequence[Scores], rule: str = "mean", *, absolute: bool = False) -> Scores:
    """One score for each edge; 0 where there is none.

    Args:
        scores: of each method, in its own unit.
        rule: see `RULES`.
        absolute: combine magnitudes.

    Raises:
        InterpError: E201 no such rule; E205 nothing to combine, or numbers that are not finite.
    """
    if rule not in RULES:
        raise InterpError("E201", f"no rule {rule!r}", fix=suggest(rule, RULES))
    if not scores:
        raise InterpError("E205", "no scores to combine", fix="name at least one method")
    table = np.stack([graph.vector(np.asarray(one, dtype=np.float64)) for one in scores])
    if not np.isfinite(table).all():
        raise InterpError("E205", "scores that are not finite cannot be combined", fix="look at the methods one by one")
    return graph.matrix(RULES[rule](np.abs(table) if absolute else table))


def warm_start(graph: Graph, scores: Scores, size: float) -> Scores:
    """Shares to keep of each edge, to begin a search with: larger where scores are, their mean the size asked for.

    Args:
        size: share of edges, the mean of what is returned unless the limits `KEEP` and 1 - `KEEP` forbid it.
    """
    order = ranks(graph.vector(np.asarray(scores, dtype=np.float64))[None])[0]
    logits = np.log(KEEP / (1 - KEEP)) * (2 * order - 1)
    low, high = -20.0, 20.0
    for _ in range(60):
        shift = (low + high) / 2
        low, high = (shift, high) if _share(logits + shift).mean() < size else (low, shift)
    return graph.matrix(_share(logits + (low + high) / 2))


def _share(logits: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " edge"]:
    return np.clip(1 / (1 + np.exp(-logits)), 1 - KEEP, KEEP)
