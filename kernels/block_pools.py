"""Keys and queries pooled by blocks of positions, for operators that choose blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.problem import Problem, View


@dataclass(frozen=True, eq=False)
class Blocks:
    """Positions in blocks of `size`, counted from each document's first real key; no block holds two documents.

    Attributes:
        number: block of each position. at: how many blocks of its document come before a block. document: a number for
            its document. real: which positions count. count: real positions in each block.
    """

    number: Int[Tensor, "batch position"]
    at: Int[Tensor, "batch block"]
    document: Int[Tensor, "batch block"]
    real: Bool[Tensor, "batch position"]
    count: Int[Tensor, "batch block"]

    def mean(self, x: Float[Tensor, "batch head position feature"]) -> Float[Tensor, "batch head block feature"]:
        """Mean over the real positions of each block; 0 where there is none."""
        total = x.new_zeros(*x.shape[:2], self.count.shape[1], x.shape[3])
        total = total.scatter_add(2, self._index(x), x * self.real[:, None, :, None])
        return total / self.count.clamp(min=1)[:, None, :, None]

    def most(self, x: Float[Tensor, "batch head position feature"]) -> Float[Tensor, "batch head block feature"]:
        """Largest over the real positions of each block; 0 where there is none."""
        hidden = x.masked_fill(~self.real[:, None, :, None], float("-inf"))
        lowest = x.new_full((*x.shape[:2], self.count.shape[1], x.shape[3]), float("-inf"))
        found = lowest.scatter_reduce(2, self._index(x), hidden, "amax")
        return found.masked_fill(found == float("-inf"), 0.0)

    def least(self, x: Float[Tensor, "batch head position feature"]) -> Float[Tensor, "batch head block feature"]:
        """Smallest over the real positions of each block; 0 where there is none."""
        return -self.most(-x)

    def _index(self, x: Tensor) -> Tensor:
        return self.number[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])


def blocks_of(
    at: Int[Tensor, "batch position"],
    documents: Int[Tensor, "batch position"],
    real: Bool[Tensor, "batch position"],
    size: int,
) -> Blocks:
    """Blocks of positions that stand `at` these places of these documents."""
    place = at.div(size, rounding_mode="floor")
    starts = torch.ones_like(real)
    starts[:, 1:] = (place[:, 1:] != place[:, :-1]) | (documents[:, 1:] != documents[:, :-1])
    number = starts.cumsum(-1) - 1
    empty = number.new_zeros(number.shape[0], int(number.max()) + 1)
    return Blocks(
        number,
        empty.scatter(1, number, place),
        empty.scatter(1, number, documents.to(number)),
        real,
        empty.scatter_add(1, number, real.to(number)),
    )


def documents_of(problem: Problem) -> tuple[Int[Tensor, "batch key_pos"], Int[Tensor, "batch query_pos"]]:
    """The document of each key and of each query; 0 for all where none are packed."""
    if problem.documents is None:
        return torch.zeros_like(problem.key_at), torch.zeros_like(problem.query_at)
    return problem.documents, problem.documents[:, problem.n_keys - problem.n_queries :]


def key_blocks(problem: Problem, size: int) -> Blocks:
    """Blocks of keys, once a problem."""
    return problem.once(("key blocks", size), lambda p: blocks_of(p.key_at, documents_of(p)[0], p.real_keys, size))


def query_blocks(problem: Problem, size: int) -> Blocks:
    """Blocks of queries, once a problem."""
    return problem.once(
        ("query blocks", size), lambda p: blocks_of(p.query_at, documents_of(p)[1], p.real_queries, size)
    )


def candidates(view: View, size: int, query_size: int, causal: bool) -> Bool[Tensor, "batch 1 row block"]:
    """Key blocks that are to be chosen from: of the query's document, and where causal all before the one that holds the
    first query of the query's block."""
    problem = view.problem
    blocks, document = key_blocks(problem, size), documents_of(problem)[1][:, view.rows]
    found = (blocks.document[:, None, :] == document[..., None]) & (blocks.count[:, None, :] > 0)
    if causal:
        first = problem.query_at[:, view.rows].div(query_size, rounding_mode="floor") * query_size
        found = found & (blocks.at[:, None, :] < first.div(size, rounding_mode="floor")[..., None])
    return found[:, None]
