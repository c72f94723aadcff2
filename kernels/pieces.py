"""A problem cut into its documents, so that what is computed over whole sequences stays inside each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.problem import ALL, Problem

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Piece:
    """One document of one prompt, or, where none are packed, all prompts of the batch.

    Slices that methods take count from the piece's own first key and first query.

    Attributes:
        batch, keys, queries: where it stands in the problem; `queries` may start later than `keys` (bottom right).
    """

    problem: Problem
    batch: slice
    keys: slice
    queries: slice
    memo: dict[object, Any] = field(default_factory=dict, repr=False)

    @property
    def n_keys(self) -> int:
        return self.keys.stop - self.keys.start

    @property
    def n_queries(self) -> int:
        return self.queries.stop - self.queries.start

    @property
    def offset(self) -> int:
        """Index of the key that the first query stands at."""
        return self.n_keys - self.n_queries

    @property
    def whole(self) -> bool:
        """Whether it is all of the problem."""
        return self.n_keys == self.problem.n_keys and self.batch == slice(0, self.problem.batch)

    def q(self, heads: slice = ALL, rows: slice = ALL) -> Float[Tensor, "batch head row d_head"]:
        return self.problem.q[self.batch, heads, inside(self.queries, rows)].to(self.problem.wide)

    def k(self, heads: slice = ALL, keys: slice = ALL) -> Float[Tensor, "batch head key d_head"]:
        return self._of_kv(self.problem.k, heads, keys)

    def v(self, heads: slice = ALL, keys: slice = ALL) -> Float[Tensor, "batch head key d_value"]:
        return self._of_kv(self.problem.v, heads, keys)

    def _of_kv(self, x: Tensor, heads: slice, keys: slice) -> Tensor:
        index = self.problem.kv_index[heads]
        part = x[self.batch, :, inside(self.keys, keys)].to(self.problem.wide)
        return part if index == list(range(x.shape[1])) else part[:, index]

    def real_keys(self, keys: slice = ALL) -> Bool[Tensor, "batch key"]:
        return self.problem.real_keys[self.batch, inside(self.keys, keys)]

    def real_queries(self, rows: slice = ALL) -> Bool[Tensor, "batch row"]:
        return self.problem.real_queries[self.batch, inside(self.queries, rows)]

    def once(self, key: object, make: Callable[[Piece], T]) -> T:
        """`make(self)`, computed at the first call with this key."""
        if key not in self.memo:
            self.memo[key] = make(self)
        return self.memo[key]


def inside(outer: slice, inner: slice) -> slice:
    """A slice of a slice, both with bounds that exist."""
    start, stop, _ = inner.indices(outer.stop - outer.start)
    return slice(outer.start + start, outer.start + stop)


def pieces(problem: Problem) -> list[Piece]:
    """The documents that have queries; all prompts in one piece where no documents are packed."""
    return problem.once("pieces", _pieces)


def _pieces(problem: Problem) -> list[Piece]:
    documents, offset = problem.documents, problem.n_keys - problem.n_queries
    if documents is None:
        return [Piece(problem, slice(0, problem.batch), slice(0, problem.n_keys), slice(0, problem.n_queries))]
    found: list[Piece] = []
    for row in range(problem.batch):
        edges = [0, *((documents[row, 1:] != documents[row, :-1]).nonzero().flatten() + 1).tolist(), problem.n_keys]
        for start, stop in zip(edges, edges[1:], strict=False):
            if stop > offset:
                queries = slice(max(start - offset, 0), stop - offset)
                found.append(Piece(problem, slice(row, row + 1), slice(start, stop), queries))
    return found


def counts(real: Bool[Tensor, "batch position"], dtype: torch.dtype) -> Float[Tensor, "batch 1 position 1"]:
    """How many real positions there are up to each, itself included; at least 1."""
    return real.cumsum(-1).clamp(min=1)[:, None, :, None].to(dtype)


def spans(n: int, size: int = 1024) -> list[slice]:
    """Blocks of positions, so that sums over long sequences hold little at a time."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def log_totals(
    piece: Piece, scores: Callable[[slice], Float[Tensor, "batch head key feature"]]
) -> Float[Tensor, "batch head 1 feature"]:
    """Log of the sum of exp(scores) over real keys, in blocks of keys; finite where there is none, too."""
    least = torch.finfo(piece.problem.wide).min / 2
    blocks = [
        scores(span).masked_fill(~piece.real_keys(span)[:, None, :, None], least).logsumexp(2)
        for span in spans(piece.n_keys)
    ]
    return torch.stack(blocks, dim=2).logsumexp(2, keepdim=True)
