"""Softmax attention in which heads share the far text out among themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.rowwise import Span
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Sharded(Softmax):
    """S2: by blocks of keys, head h sees the query's own and the `local_blocks - 1` before it (where not causal, after
    it too), and every `stride`-th block of all: those b with `(b + step h + 1) mod stride = 0`,
    `step = max(1, floor(stride / heads))`. With as many heads as the stride or more, they see the whole text between
    them.

    Raises:
        InterpError: E205, a block, stride or number of local blocks under 1.
    """

    name: ClassVar[str] = "sharded"
    source: ClassVar[str] = "S2-Attention: Lin et al. 2024, arXiv 2407.17678; offsets and defaults of Phi-3-small"

    block: int = 64
    local_blocks: int = 16
    stride: int = 8

    def __post_init__(self) -> None:
        if min(self.block, self.local_blocks, self.stride) < 1:
            raise InterpError(
                "E205",
                f"block={self.block}, local_blocks={self.local_blocks}, stride={self.stride}",
                fix="1 or more each; stride=1 is dense",
            )

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        problem = view.problem
        of_query, of_key = view.query // self.block, view.key // self.block
        heads = torch.tensor(problem.head_index[view.heads], device=problem.q.device)[:, None, None]
        step = max(1, self.stride // problem.n_heads)
        mine = (of_key + step * heads + 1) % self.stride == 0
        return ((of_query - of_key).abs() < self.local_blocks) | mine

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span | str:
        return Span() if self.stride == 1 else "blocks at every stride are no interval of keys"
