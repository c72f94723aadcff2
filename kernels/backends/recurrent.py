"""Linear-time operators token by token, as in decoding: the plain twin of the chunked form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.linear_time import Block, LinearTime, State
from interp.kernels.variants.linear import Linear


@dataclass(frozen=True)
class Recurrent(LinearTime):
    """`S_i = exp(g_i) * S_(i-1) + right_i v_i^T`, `o_i = left_i S_i`.

    Args:
        block: tokens whose features are computed together.
    """

    name: ClassVar[str] = "recurrent"

    block: int = 128

    def size(self, variant: Linear) -> int:
        return self.block

    def read(self, state: State, block: Block) -> Float[Tensor, "batch head row d_value"]:
        first = block.right.shape[2] - block.left.shape[2]
        rows: list[Tensor] = []
        for key in range(block.right.shape[2]):
            state = _step(state, block, key)
            if key >= first:
                rows.append(torch.matmul(block.left[:, :, key - first, None], state))
        return torch.cat(rows, dim=2)

    def absorb(self, state: State, block: Block) -> State:
        for key in range(block.right.shape[2]):
            state = _step(state, block, key)
        return state


def _step(state: State, block: Block, key: int) -> State:
    kept = state if block.log_decay is None else state * block.log_decay[:, :, key].exp()[..., None]
    return kept + block.right[:, :, key, :, None] * block.values[:, :, key, None, :]
