"""Attention as a flow that is conserved: keys compete for being read, queries for reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.pieces import Piece, counts, spans
from interp.kernels.problem import Problem
from interp.kernels.variants.linear import Linear


class Flows(NamedTuple):
    """What `W_ij = allocation_i <phi q_i, phi k_j> competition_j` has beside the product, one number a position."""

    allocation: Float[Tensor, "batch head query_pos 1"]
    competition: Float[Tensor, "batch head key_pos 1"]


@dataclass(frozen=True, eq=False)
class Flow(Linear):
    """`W_ij = sigmoid(sink_i) <phi q_i, phi k_j> / I_i * n softmax_j(source)_j`, `phi` a sigmoid. Incoming flow `I_i = <phi
    q_i, sum_j phi k_j>`, outgoing `O_j = <phi k_j, sum_i phi q_i>`; with these conserved, `sink_i = <phi q_i, sum_j phi k_j
    / O_j>` (times queries over keys) and `source_j = <phi k_j, sum_i phi q_i / I_i>`, held in [-1, 1]. Rows of any sum.

    Causal: every sum runs up to the position and is a mean over it, and `n softmax` is exp over the mean of exp so far.
    """

    name: ClassVar[str] = "flow"
    source: ClassVar[str] = "Wu et al. 2022, Flowformer, arXiv 2202.06258, eq. 4 to 8; causal form as in its code"
    normalised = False
    two_pass = True

    def check(self, problem: Problem) -> str | None:
        if problem.mask is not None:
            return "flows are summed over all keys, whatever a mask hides from a query"
        if self.causal and problem.n_queries != problem.n_keys:
            return f"the flow out of every key needs its query: {problem.n_queries} queries, {problem.n_keys} keys"
        return super().check(problem)

    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        return piece.q(heads, rows).sigmoid() * self._flows(piece).allocation[:, heads, rows]

    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        return piece.k(heads, keys).sigmoid() * self._flows(piece).competition[:, heads, keys]

    def _flows(self, piece: Piece) -> Flows:
        return piece.once((self, "flows"), _causal if self.causal else _full)


def _q(piece: Piece, rows: slice) -> Float[Tensor, "batch head row d_head"]:
    """Features of some queries, 0 at padding."""
    return piece.q(rows=rows).sigmoid() * piece.real_queries(rows)[:, None, :, None]


def _k(piece: Piece, keys: slice) -> Float[Tensor, "batch head key d_head"]:
    """Features of some keys, 0 at padding."""
    return piece.k(keys=keys).sigmoid() * piece.real_keys(keys)[:, None, :, None]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _inverse(flow: Tensor) -> Tensor:
    """0 where nothing flows, which is at padding."""
    return torch.where(flow > 0, 1 / flow.clamp(min=torch.finfo(flow.dtype).tiny), 0.0)


def _full(piece: Piece) -> Flows:
    rows, keys = spans(piece.n_queries), spans(piece.n_keys)
    all_k, all_q = _sum(_k(piece, each) for each in keys), _sum(_q(piece, each) for each in rows)
    incoming = torch.cat([_inverse(_dot(_q(piece, each), all_k)) for each in rows], dim=2)
    outgoing = torch.cat([_inverse(_dot(_k(piece, each), all_q)) for each in keys], dim=2)
    sent = _sum(_k(piece, each) * outgoing[:, :, each] for each in keys)
    asked = _sum(_q(piece, each) * incoming[:, :, each] for each in rows)
    real_k, real_q = piece.real_keys()[:, None, :, None], piece.real_queries()[:, None, :, None]
    n_k, n_q = real_k.sum(2, keepdim=True), real_q.sum(2, keepdim=True)
    sink = torch.cat([_dot(_q(piece, each), sent) for each in rows], dim=2) * n_q / n_k.clamp(min=1)
    source = torch.cat([_dot(_k(piece, each), asked) for each in keys], dim=2).clamp(-1.0, 1.0)
    weight = source.exp() * real_k
    return Flows(sink.sigmoid() * incoming, weight * n_k * _inverse(weight.sum(2, keepdim=True)))


def _sum(blocks: Iterable[Tensor]) -> Float[Tensor, "batch head 1 d_head"]:
    return torch.stack([each.sum(2, keepdim=True) for each in blocks]).sum(0)


def _causal(piece: Piece) -> Flows:
    """Sums run from block to block."""
    counted = counts(piece.real_keys(), piece.problem.wide)
    carried: list[Tensor | float] = [0.0] * 5
    found: list[Flows] = []

    def running(number: int, x: Tensor) -> Tensor:
        sums = x.cumsum(2) + carried[number]
        carried[number] = sums[:, :, -1:]
        return sums

    for span in spans(piece.n_keys):
        q, k, n = _q(piece, span), _k(piece, span), counted[:, :, span]
        incoming, outgoing = _inverse(_dot(q, running(0, k) / n)), _inverse(_dot(k, running(1, q) / n))
        sink = _dot(q, running(2, k * outgoing) / n)
        source = _dot(k, running(3, q * incoming) / n).clamp(-1.0, 1.0)
        weight = source.exp() * piece.real_keys(span)[:, None, :, None]
        found.append(Flows(sink.sigmoid() * incoming / n, weight * n * _inverse(running(4, weight))))
    return Flows(*(torch.cat(parts, dim=2) for parts in zip(*found, strict=True)))
