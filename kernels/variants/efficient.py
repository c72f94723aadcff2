"""Linear attention with a softmax over the channels of queries and over the positions of keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.kernels.pieces import Piece, log_totals
from interp.kernels.variants.two_pass import TwoPass


@dataclass(frozen=True, eq=False)
class Efficient(TwoPass):
    """`W_ij = sum_c softmax_c(q_i)_c softmax_j(k_jc)`, without scale: every key channel is one map over the sequence, and a
    query mixes the maps. Rows sum to 1."""

    name: ClassVar[str] = "efficient"
    source: ClassVar[str] = "Shen et al. 2021, arXiv 1812.01243, eq. 3 with softmax normalisation"

    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        return piece.q(heads, rows).softmax(-1)

    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        total = piece.once((self, "total"), lambda p: log_totals(p, lambda span: p.k(keys=span)))
        real = piece.real_keys(keys)[:, None, :, None]
        return (piece.k(heads, keys) - total[:, heads]).masked_fill(~real, float("-inf")).exp()
