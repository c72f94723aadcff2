"""Which edges make the circuit: a number of them, a threshold, or the first size that is faithful enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.judging.selection import Selection, above, top_n
from interp.kernels.errors import InterpError

GRID = 32
"""Sizes that are tried before the search between two of them."""

Faithful = Callable[[Sequence[Edges]], Float[np.ndarray, " circuit"]]


@dataclass(frozen=True)
class Choice:
    """What was asked for; one of the three.

    Attributes:
        size: a share of the edges (below 1), or their number.
        threshold: smallest score.
        faithful: share of the metric's gap that the circuit must keep, on the prompts that choose it.
        absolute: edges are ranked by the size of their score; False: what hurts stands last.
    """

    size: float | int | None = None
    threshold: float | None = None
    faithful: float | None = None
    absolute: bool = True

    def __post_init__(self) -> None:
        given = [name for name in ("size", "threshold", "faithful") if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} together" if given else "no size"
            raise InterpError("E205", what, where="choice of the circuit", fix="give one of size, threshold, faithful")
        if self.size is not None and not self.size > 0:
            raise InterpError(
                "E205", f"size {self.size}", fix="give a share such as 0.05, or a number of edges such as 50"
            )

    def select(self, graph: Graph, scores: Scores, faithful: Faithful) -> tuple[Selection, str]:
        """The circuit, and how it was chosen, in words.

        Raises:
            InterpError: E203 more edges than there are; E206, E207 for the scores.
        """
        if self.threshold is not None:
            return above(
                graph, scores, self.threshold, absolute=self.absolute
            ), f"scores of at least {self.threshold:g}"
        if self.size is not None:
            n = int(self.size * graph.n_edges) if self.size < 1 else int(self.size)
            return top_n(graph, scores, n, absolute=self.absolute), f"the {n} highest scores"
        assert self.faithful is not None
        return self._first_faithful(graph, scores, faithful, self.faithful)

    def _first_faithful(self, graph: Graph, scores: Scores, faithful: Faithful, wanted: float) -> tuple[Selection, str]:
        """The smallest circuit on a grid of sizes that is faithful enough, made smaller between it and the one before."""
        sizes = np.unique(np.geomspace(max(1, graph.n_edges // 200), graph.n_edges, GRID).astype(int)).tolist()
        found = [top_n(graph, scores, n, absolute=self.absolute) for n in sizes]
        enough = faithful([one.edges for one in found]) >= wanted
        if not enough.any():
            return found[-1], f"all edges: no smaller circuit keeps {wanted:g} of the metric's gap"
        first = int(enough.argmax())
        below = sizes[first - 1] if first else 0
        between = sorted({int(n) for n in np.linspace(below + 1, sizes[first], min(GRID, sizes[first] - below))})
        finer = [top_n(graph, scores, n, absolute=self.absolute) for n in between]
        enough = faithful([one.edges for one in finer]) >= wanted
        chosen = finer[int(enough.argmax())] if enough.any() else found[first]
        return chosen, f"the first size that keeps {wanted:g} of the metric's gap on the prompts that choose"


def largest(scores: Scores, edges: Edges, k: int | None) -> list[tuple[int, int, int]]:
    """Place, writer and reader of the k edges of a circuit with the largest scores in size; of all where k is None."""
    places = np.argwhere(edges)
    order = np.argsort(-np.abs(scores[edges]), kind="stable")[:k]
    return [(int(place), int(writer), int(reader)) for place, writer, reader in places[order]]
