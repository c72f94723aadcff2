"""Linear-time operators chunk by chunk: products inside a chunk, a state for all before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.linear_time import Block, LinearTime, State
from interp.kernels.variants.decay import GatedLinear
from interp.kernels.variants.linear import Linear

GATED = 16
"""Keys to a chunk where every channel has its own gate: products inside take keys^2 features numbers then."""


@dataclass(frozen=True)
class Chunked(LinearTime):
    """`O = (e^G * left) S + (left right^T * e^(G_i - G_j) * past) V`, `S' = e^G_C S + (e^(G_C - G) * right)^T V`, G counted
    from the start of the chunk. Exponents are differences taken first, masked second, exponentiated last: none is above 0.

    Args:
        chunk: keys to a chunk; about d_head is best.
    """

    name: ClassVar[str] = "chunked"

    chunk: int = 64

    def size(self, variant: Linear) -> int:
        gated = isinstance(variant, GatedLinear) and variant.gates.shape[3] > 1
        return min(self.chunk, GATED) if gated else self.chunk

    def read(self, state: State, block: Block) -> Float[Tensor, "batch head row d_value"]:
        n_rows, n_keys = block.left.shape[2], block.right.shape[2]
        past = torch.ones(n_rows, n_keys, dtype=torch.bool, device=state.device).tril(n_keys - n_rows)
        if block.log_decay is None:
            inner = torch.matmul(block.left, block.right.transpose(2, 3)).masked_fill(~past, 0.0)
            return torch.matmul(block.left, state) + torch.matmul(inner, block.values)
        total = block.log_decay.cumsum(2)
        at = total[:, :, n_keys - n_rows :]
        inner = _faded(block, at, total, past)
        return torch.matmul(block.left * at.exp(), state) + torch.matmul(inner, block.values)

    def absorb(self, state: State, block: Block) -> State:
        if block.log_decay is None:
            return state + torch.matmul(block.right.transpose(2, 3), block.values)
        total = block.log_decay.cumsum(2)
        last = total[:, :, -1:]
        right = block.right * (last - total).exp()
        return last.exp().transpose(2, 3) * state + torch.matmul(right.transpose(2, 3), block.values)


def _faded(block: Block, at: Tensor, total: Tensor, past: Tensor) -> Float[Tensor, "batch head row key"]:
    """Products inside a chunk with what decay leaves of them."""
    if total.shape[3] == 1:
        fade = (at - total.transpose(2, 3)).masked_fill(~past, float("-inf")).exp()
        return torch.matmul(block.left, block.right.transpose(2, 3)) * fade
    fade = (at[:, :, :, None] - total[:, :, None]).masked_fill(~past[..., None], float("-inf")).exp()
    return torch.einsum("bhrf,bhkf,bhrkf->bhrk", block.left, block.right, fade)
