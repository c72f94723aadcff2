"""`Plan`: how every variant of a batch will be run, and what that costs beside the naive loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from interp.hooks.rerun.change import First
from interp.hooks.rerun.nodes import Mask

Route = Literal["nodes", "layers", "forward", "nothing"]

ROUTES: dict[Route, str] = {
    "nodes": "what can change alone",
    "layers": "whole prompts from the first edited layer on",
    "forward": "full forwards",
    "nothing": "no run: what the metric reads cannot change",
}


@dataclass(frozen=True, eq=False)
class Chunk:
    """Variants that run together.

    Attributes:
        variants: their numbers.
        route: a key of `ROUTES`.
        layer: where their forwards begin.
        why: the reason where a faster route was not taken.
        first: for 'nodes', where the variants begin.
        touched: for 'nodes', those that any of their hooks can change by itself.
        is_shared: whether prompts share nodes.
        kinds: hook points that they edit.
        flops: floating point operations of the whole chunk, or of one variant where none is named.
        peak: bytes at most, beside the recorded run.
    """

    variants: tuple[int, ...]
    route: Route
    layer: int = 0
    why: str = ""
    first: First | None = None
    touched: Mask | None = None
    is_shared: bool = False
    kinds: tuple[str, ...] = ()
    flops: int = 0
    peak: int = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """Variants with equal keys can run together."""
        where = None if self.first is None else self.first.where
        touched = None if self.touched is None else self.touched.tobytes()
        return (self.route, self.layer, self.why, where, self.is_shared, self.kinds, touched)


@dataclass(frozen=True, eq=False)
class Plan:
    """All chunks of one batch.

    Attributes:
        chunks: in the order in which they run.
        naive_flops: of one full forward a variant; 0 where the cost of this model is not known.
        recorded: bytes of the recorded run.
        budget: bytes that were allowed.
    """

    chunks: tuple[Chunk, ...]
    naive_flops: int
    recorded: int
    budget: int

    @property
    def n_variants(self) -> int:
        return sum(len(chunk.variants) for chunk in self.chunks)

    @property
    def flops(self) -> int:
        """Of the variants; the recorded run and the plain one come on top, once a batch."""
        return sum(chunk.flops for chunk in self.chunks)

    @property
    def peak(self) -> int:
        """Bytes at most, the recorded run included."""
        return self.recorded + max((chunk.peak for chunk in self.chunks), default=0)

    @property
    def routes(self) -> dict[Route, int]:
        """Variants by route."""
        found: Counter[Route] = Counter()
        for chunk in self.chunks:
            found[chunk.route] += len(chunk.variants)
        return dict(found)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a faster route was not taken, each once."""
        return tuple(dict.fromkeys(chunk.why for chunk in self.chunks if chunk.why))

    def __str__(self) -> str:
        operations = f"{self.flops / 1e9:.4g} GFLOP instead of {self.naive_flops / 1e9:.4g}"
        lines = [
            f"{self.n_variants} variants in {len(self.chunks)} runs instead of as many forwards",
            *([operations] if self.naive_flops else []),
            f"{self.peak / 2**20:.4g} MiB at most, of {self.budget / 2**20:.4g} allowed",
            *(f"{count} variants: {ROUTES[route]}" for route, count in self.routes.items()),
            *self.reasons,
        ]
        return "\n".join(lines)
