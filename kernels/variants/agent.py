"""Attention by way of a few agents, which are pooled queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.pieces import Piece, log_totals, spans
from interp.kernels.variants.two_pass import TwoPass


@dataclass(frozen=True, eq=False)
class Agent(TwoPass):
    """`W = softmax(scale Q A^T) softmax(scale A K^T)`, A being the queries pooled to `agents` rows: agents gather, then
    hand out. Rows sum to 1, weights are never negative, the rank is at most `agents`.

    Agent a is the mean of the queries from floor(a n / agents) to ceil((a + 1) n / agents). The published layer adds
    learned biases to both maps and a convolution of v; they are no part of the weights.

    Raises:
        InterpError: E205, under one agent, or causal.
    """

    name: ClassVar[str] = "agent"
    source: ClassVar[str] = "Han et al. 2023, arXiv 2312.08874, eq. 5, without biases; pooling along the sequence"

    agents: int = 49

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.agents < 1:
            raise InterpError("E205", f"{self.agents} agents", fix="agents=1 or more")

    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        agents = self._pooled(piece)[:, heads]
        return (torch.matmul(piece.q(heads, rows), agents.transpose(2, 3)) * piece.problem.scale).softmax(-1)

    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        total = piece.once((self, "total"), lambda p: log_totals(p, lambda span: self._scores(p, slice(None), span)))
        real = piece.real_keys(keys)[:, None, :, None]
        return (self._scores(piece, heads, keys) - total[:, heads]).masked_fill(~real, float("-inf")).exp()

    def _scores(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        products = torch.matmul(piece.k(heads, keys), self._pooled(piece)[:, heads].transpose(2, 3))
        return products * piece.problem.scale

    def _pooled(self, piece: Piece) -> Float[Tensor, "batch head feature d_head"]:
        return piece.once((self, "agents"), lambda p: pooled_queries(p, self.agents))


def pooled_queries(piece: Piece, bins: int) -> Float[Tensor, "batch head bin d_head"]:
    """Real queries of each prompt, averaged over as many bins of (nearly) equal length, which overlap by one query where
    the length doesn't divide."""
    real = piece.real_queries()
    rank = (real.cumsum(-1) - 1).masked_fill(~real, -1)[:, None]
    n, number = real.sum(-1, keepdim=True)[..., None], torch.arange(bins, device=real.device)[:, None]
    low, high = number * n // bins, -(-(number + 1) * n // bins)
    total = piece.q(rows=slice(0, 0)).new_zeros(real.shape[0], piece.problem.heads, bins, piece.problem.q.shape[3])
    for span in spans(piece.n_queries):
        inside = (rank[..., span] >= low) & (rank[..., span] < high)
        total = total + torch.matmul(inside[:, None].to(total), piece.q(rows=span))
    return total / (high - low).clamp(min=1)[:, None].to(total)
