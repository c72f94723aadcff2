"""How layers mix tokens: heads averaged, the residual stream added, layers multiplied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Square = Float[Tensor, "batch query_pos key_pos"]


def mixing(weights: Square) -> Square:
    """`rowNorm(A + I)`: what a layer mixes, half of it the token itself where rows of A sum to 1.

    Abnar and Zuidema 2020, arXiv 2005.00928, section 3. Rows of another mass, as sink logits leave them, are made to sum
    to 1 here. Rows of padding are those of the identity.
    """
    whole = weights + torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return whole / whole.sum(-1, keepdim=True)


def rolled(layers: Sequence[Square], rows: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    """Rows of the product of all layers, the last one first: `rows . M_n ... M_1`; [batch pos] squared is never made."""
    found = rows[:, None]
    for layer in reversed(layers):
        found = found @ layer
    return found[:, 0]
