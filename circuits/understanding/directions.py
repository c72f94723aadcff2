"""Subspaces as orthonormal columns: those that rows span, and random ones within them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Basis = Float[Tensor, "width _"]
"""Orthonormal columns."""

Rows = Float[Tensor, "_ width"]

SMALL = 1e-6
"""Singular values below this share of the largest one are rounding: rows come from float32."""


def compact(rows: Rows) -> Rows:
    """No more rows than columns, with the same inner products of columns."""
    return rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows).R


def spanned(rows: Rows, beside: Rows | None = None) -> Basis:
    """Principal directions of rows, largest first, without those that are rounding.

    Args:
        beside: rows of a size at which the others are rounding; None takes the rows themselves.
    """
    _, sizes, right = torch.linalg.svd(compact(rows), full_matrices=False)
    largest = sizes.max() if beside is None else torch.linalg.matrix_norm(compact(beside), 2)
    return right[sizes > SMALL * largest].T


def random_bases(within: Basis, rank: int, n: int, seed: int) -> list[Basis]:
    """Random subspaces of a space; none where it has no more dimensions than they, or these have none."""
    if not 0 < rank < within.shape[1]:
        return []
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, within.shape[1], rank, generator=draw, dtype=within.dtype)
    return list(within @ torch.linalg.qr(mixed).Q.to(within.device))
