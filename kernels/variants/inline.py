"""Linear attention whose rows sum to 1 by subtraction in place of division."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.pieces import Piece
from interp.kernels.variants.two_pass import TwoPass


@dataclass(frozen=True, eq=False)
class InLine(TwoPass):
    """`W_ij = 1/n + (scale / n) <q_i, k_j - mean k>` over the n keys: rows sum to exactly 1, weights of either sign. Two
    queries that differ get different weights, which division doesn't promise.

    The published layer adds a 3x3 convolution of v; it is no part of the weights.
    """

    name: ClassVar[str] = "inline"
    source: ClassVar[str] = "Han et al. 2024, arXiv 2412.06590, eq. 6"
    non_negative = False

    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        q = piece.q(heads, rows) * piece.problem.scale
        return torch.cat([torch.ones_like(q[..., :1]), q], dim=-1)

    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        mean, n = piece.once((self, "mean"), _mean_key)
        centred = piece.k(heads, keys) - mean[:, heads]
        return torch.cat([torch.ones_like(centred[..., :1]), centred], dim=-1) / n


def _mean_key(piece: Piece) -> tuple[Float[Tensor, "batch head 1 d_head"], Float[Tensor, "batch 1 1 1"]]:
    """Mean of the real keys, and how many they are."""
    real = piece.real_keys()[:, None, None, :].to(piece.problem.wide)
    n = real.sum(3, keepdim=True).clamp(min=1)
    return torch.matmul(real, piece.k()) / n, n
