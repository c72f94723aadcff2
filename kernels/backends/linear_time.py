"""Linear-time operators with a state of fixed size: what the chunked and the recurrent form share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.backends.base import Answer, Asked
from interp.kernels.backends.key_sums import KeySums, key_sums
from interp.kernels.pieces import Piece, pieces
from interp.kernels.problem import ALL, Problem
from interp.kernels.variants.base import Variant
from interp.kernels.variants.linear import Linear, divided

State = Float[Tensor, "batch head feature d_value"]


class Block(NamedTuple):
    """Some keys in a row, and the queries that stand at the last of them."""

    left: Float[Tensor, "batch head row feature"]
    right: Float[Tensor, "batch head key feature"]
    values: Float[Tensor, "batch head key d_value"]
    log_decay: Float[Tensor, "#batch head key #feature"] | None


class Found(NamedTuple):
    """What queries get from values, in the dtype of v, and from everything else that is summed over keys."""

    output: Float[Tensor, "batch head query_pos d_value"]
    totals: Float[Tensor, "batch head query_pos column"]


class Gathered:
    """Rows as they are found, finished block by block. Without gradients they are written where they stay: copies of long
    sequences would cost as much as what is computed."""

    def __init__(self, n_queries: int, d_value: int, divides: bool) -> None:
        self.n_queries, self.d_value, self.divides = n_queries, d_value, divides
        self.at = 0
        self.pieces: tuple[list[Tensor], list[Tensor]] = ([], [])

    def add(self, rows: Float[Tensor, "batch head row column"], piece: Piece) -> None:
        span = slice(self.at, self.at + rows.shape[2])
        if piece.problem.key_mask is not None:
            rows = rows * piece.real_queries(span)[:, None, :, None]
        output, totals = rows[..., : self.d_value], rows[..., self.d_value :]
        if self.divides:
            output = divided(output, totals[..., :1])
        for kept, part in zip(self.pieces, (output.to(piece.problem.v.dtype), totals), strict=True):
            if part.requires_grad:
                kept.append(part)
                continue
            if not kept:
                kept.append(part.new_empty(*part.shape[:2], self.n_queries, part.shape[3]))
            kept[0][:, :, span] = part
        self.at = span.stop

    def found(self) -> Found:
        output, totals = (kept[0] if len(kept) == 1 else torch.cat(kept, dim=2) for kept in self.pieces)
        return Found(output, totals)


@dataclass(frozen=True)
class LinearTime(ABC):
    """Goes through the keys once, block by block; twice where nothing is causal: all keys first, then the queries."""

    name: ClassVar[str]
    differentiable: ClassVar[bool] = True

    def refuses(self, problem: Problem, variant: Variant, asked: Asked) -> str | None:
        if not isinstance(variant, Linear):
            return f"{variant.name} has no state that stands for the past"
        if problem.mask is not None:
            return "the mask is given cell by cell"
        sums = key_sums(problem, variant, asked)
        return sums if isinstance(sums, str) else None

    def run(self, problem: Problem, variant: Variant, asked: Asked) -> Answer:
        assert isinstance(variant, Linear)
        sums = key_sums(problem, variant, asked)
        assert not isinstance(sums, str)
        parts = pieces(problem)
        found = [self._piece(variant, piece, sums) for piece in parts]
        output, totals = found[0] if len(parts) == 1 and parts[0].whole else _placed(found, parts, problem)
        return Answer(output, None, sums.read(totals, variant.divides))

    def _piece(self, variant: Linear, piece: Piece, sums: KeySums) -> Found:
        state: Tensor | None = None
        rows = Gathered(piece.n_queries, piece.problem.v.shape[3], variant.divides)
        for keys, queries in self._blocks(variant, piece):
            block = self._block(variant, piece, sums, keys, queries)
            if state is None:
                state = block.right.new_zeros(*block.right.shape[:2], block.right.shape[3], block.values.shape[3])
            if variant.causal and block.left.shape[2]:
                rows.add(self.read(state, block), piece)
            state = self.absorb(state, block)
        assert state is not None
        if not variant.causal:
            size = self.size(variant)
            for start in range(0, piece.n_queries, size):
                rows.add(torch.matmul(variant.left(piece, ALL, slice(start, start + size)), state), piece)
        return rows.found()

    def _blocks(self, variant: Linear, piece: Piece) -> list[tuple[slice, slice]]:
        """Keys, and the queries among them (none where nothing is causal)."""
        size, offset = self.size(variant), piece.offset
        edges = [(start, min(start + size, piece.n_keys)) for start in range(0, piece.n_keys, size)]
        if not variant.causal:
            return [(slice(start, stop), slice(0, 0)) for start, stop in edges]
        return [(slice(start, stop), slice(max(start - offset, 0), max(stop - offset, 0))) for start, stop in edges]

    def _block(self, variant: Linear, piece: Piece, sums: KeySums, keys: slice, queries: slice) -> Block:
        right = variant.right(piece, ALL, keys)
        right = right.masked_fill(~_column(piece.real_keys(keys)), 0.0)
        left = variant.left(piece, ALL, queries) if queries.start < queries.stop else right[:, :, :0]
        return Block(left, right, sums.beside(piece.v(ALL, keys), piece, keys), variant.log_decay(piece, ALL, keys))

    @abstractmethod
    def size(self, variant: Linear) -> int:
        """Keys to a block."""

    @abstractmethod
    def read(self, state: State, block: Block) -> Float[Tensor, "batch head row d_value"]:
        """What the queries of a block get from the state before it and from the block itself, causally."""

    @abstractmethod
    def absorb(self, state: State, block: Block) -> State:
        """The state after a block."""


def _column(real: Bool[Tensor, "batch key"]) -> Bool[Tensor, "batch 1 key 1"]:
    return real[:, None, :, None]


def _placed(found: list[Found], parts: list[Piece], problem: Problem) -> Found:
    def whole(pick: int) -> Tensor:
        like = found[0][pick]
        placed = like.new_zeros(problem.batch, problem.heads, problem.n_queries, like.shape[3])
        for rows, piece in zip(found, parts, strict=True):
            placed[piece.batch, :, piece.queries] = rows[pick]
        return placed

    return Found(whole(0), whole(1))
