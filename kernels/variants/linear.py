"""Attention whose weights are products of a query's and a key's features, so that a state of fixed size does for the past."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.pieces import Piece, inside, pieces
from interp.kernels.problem import ALL, Problem, View
from interp.kernels.variants.base import Variant, Weights


@dataclass(frozen=True, eq=False)
class Linear(Variant):
    """`W_ij = <left_i, right_j> exp(G_i - G_j)`, G being the sum of log decays up to a position; rows divided by their sum
    where `divides`.

    A subclass says what stands left and right and how the past decays. Weights (quadratic), the chunked and the recurrent
    form all follow from that.
    """

    linear_time = True
    divides: ClassVar[bool] = False

    @abstractmethod
    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        """Features of some queries."""

    @abstractmethod
    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        """Features of some keys."""

    def log_decay(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "#batch head key #feature"] | None:
        """Log of what is left, at each key, of all before it; one number a key or one a feature. None: nothing decays."""
        return None

    def check(self, problem: Problem) -> str | None:
        if self.causal and problem.n_queries > problem.n_keys:
            return f"{problem.n_queries} queries and {problem.n_keys} keys: the first ones come before any key"
        return None

    def weights(self, view: View) -> Weights:
        allowed = (view.open & view.past if self.causal else view.open).expand(view.problem.batch, -1, -1, -1)
        parts = pieces(view.problem)
        if len(parts) == 1 and parts[0].whole:
            return Weights(self._normalised(self._block(parts[0], view.heads, view.rows, allowed)))
        start, stop, _ = view.rows.indices(view.problem.n_queries)
        values = view.q.new_zeros(*view.q.shape[:3], view.problem.n_keys)
        for piece in parts:
            low, high = max(start, piece.queries.start), min(stop, piece.queries.stop)
            if low < high:
                here, rows = (
                    slice(low - start, high - start),
                    slice(low - piece.queries.start, high - piece.queries.start),
                )
                block = self._block(piece, view.heads, rows, allowed[piece.batch, :, here, piece.keys])
                values[piece.batch, :, here, piece.keys] = block
        return Weights(self._normalised(values))

    def _block(self, piece: Piece, heads: slice, rows: slice, allowed: Tensor) -> Float[Tensor, "batch head row key"]:
        decay = self.log_decay(piece, heads, ALL)
        if decay is None:
            return self.similarity(piece, heads, rows).masked_fill(~allowed, 0.0)
        total = decay.double().cumsum(2)  # sums of many small numbers, of which differences are taken
        at = total[:, :, piece.offset :][:, :, rows]
        if total.shape[3] == 1:
            fade = (at - total.transpose(2, 3)).masked_fill(~allowed, float("-inf")).exp()
            return self.similarity(piece, heads, rows) * fade.to(piece.problem.wide)
        left, right = self.left(piece, heads, rows), self.right(piece, heads, ALL)
        block = left.new_zeros(*left.shape[:3], piece.n_keys)
        for channel in range(left.shape[3]):
            fade = at[..., channel, None] - total[..., channel][:, :, None]
            faded = fade.masked_fill(~allowed, float("-inf")).exp().to(left)  # mask first: it grows without bound above
            block = block + left[..., channel, None] * right[..., channel][:, :, None] * faded
        return block

    def similarity(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row key"]:
        """`<left_i, right_j>`."""
        return torch.matmul(self.left(piece, heads, rows), self.right(piece, heads, ALL).transpose(2, 3))

    def _normalised(self, values: Tensor) -> Tensor:
        return divided(values, values.sum(-1, keepdim=True)) if self.divides else values


def divided(values: Tensor, mass: Tensor) -> Tensor:
    """Rows over their mass; rows without any stay 0."""
    return values / mass.masked_fill(mass == 0, 1.0)


def picked(values: Tensor, piece: Piece, heads: slice) -> Tensor:
    """Numbers given for every head of the model or every kv head, [batch or 1, head, ...], for some heads of a piece."""
    problem = piece.problem
    index = problem.head_index[heads] if values.shape[1] == problem.n_heads else problem.kv_index[heads]
    part = values if values.shape[0] == 1 else values[piece.batch]
    return (part if values.shape[1] == 1 else part[:, list(index)]).to(problem.q.device, problem.wide)


def of_keys(values: Tensor, piece: Piece, keys: slice) -> Tensor:
    """Numbers given for every key of the problem on axis 2, for some keys of a piece."""
    return values[:, :, inside(piece.keys, keys)]
