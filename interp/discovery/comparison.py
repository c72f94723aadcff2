"""Two circuits side by side: what they share, beside what chance would give, and how far their scores agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.circuits.judging.overlap import Overlap, check_same, edge_overlap, node_overlap
from interp.circuits.judging.stability import Agreement, agreement
from interp.circuits.tables import as_html, as_text, number

if TYPE_CHECKING:
    from interp.discovery.result import Circuit

COLUMNS = ("what", "first", "second", "shared", "of the smaller", "of the union", "by chance", "p", "same layers", "p")


@dataclass(frozen=True)
class Comparison:
    """Made by `compare`.

    Attributes:
        names: task and model of each circuit.
        edges, nodes: what is shared.
        scores: agreement of the rankings of all edges, and of as many best ones as the smaller circuit has.
        shared_heads: heads in both, as the first circuit orders them.
    """

    names: tuple[str, str]
    edges: Overlap
    nodes: Overlap
    scores: Agreement
    shared_heads: tuple[str, ...]

    def headline(self) -> str:
        """What is shared, and whether chance shares as much."""
        first, second = self.names
        found = self.edges
        what = f"{first} and {second} share {found.shared} edges, {number(found.of_smaller)} of the smaller circuit"
        chance = f"by chance {number(found.expected)}, in the same layers {number(found.matched)}"
        verdict = (
            "more than chance" if max(found.p, found.p_matched) < 0.05 else "not more than chance in the same layers"
        )
        return f"{what} ({chance}): {verdict}"

    def remarks(self) -> list[str]:
        """Scores and heads."""
        heads = ", ".join(self.shared_heads) or "none"
        return [f"rank correlation of all scores {number(self.scores.spearman)}", f"heads in both: {heads}"]

    def table(self) -> list[list[str]]:
        """One row for edges, one for nodes, in the order of `COLUMNS`."""
        return [
            [
                one.what, str(one.first), str(one.second), str(one.shared),
                *map(number, (one.of_smaller, one.of_union, one.expected, one.p, one.matched, one.p_matched)),
            ]
            for one in (self.edges, self.nodes)
        ]  # fmt: skip

    def __repr__(self) -> str:
        return as_text(f"Comparison: {self.headline()}", COLUMNS, self.table(), self.remarks())

    def _repr_html_(self) -> str:
        return as_html(self.headline(), COLUMNS, self.table(), self.remarks())


def compare(first: Circuit, second: Circuit, *, n_draws: int = 9999, seed: int = 0) -> Comparison:
    """What two circuits on graphs of one shape share.

    Args:
        n_draws: random circuits with as many edges in each class, behind the second p.

    Raises:
        InterpError: E205 graphs of different shape.
    """
    check_same(first.graph, second.graph)
    edges, nodes = (
        overlap(first.graph, first.edges, second.edges, n_draws=n_draws, seed=seed)
        for overlap in (edge_overlap, node_overlap)
    )
    n = max(1, min(first.n_edges, second.n_edges))
    names = tuple(f"{one.run.task['name']} on {one.run.model['name']}" for one in (first, second))
    shared = tuple(head for head in first.heads if head in second.heads)
    return Comparison(names, edges, nodes, agreement(first.graph, first.scores, second.scores, n), shared)  # type: ignore[arg-type]
