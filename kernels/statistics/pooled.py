"""A map of the pattern that is small enough to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Kind, Part, Statistic


@dataclass(frozen=True, eq=False)
class BlockPooled(Statistic):
    """The largest pattern entry of each block of queries and keys, or their sum:
    [batch head ceil(query_pos / block) ceil(key_pos / block)]. Blocks are counted by index; padding counts nothing.

    Raises:
        InterpError: E205, a block under 1, or another way of pooling.
    """

    name: ClassVar[str] = "block-pooled"
    kind: ClassVar[Kind] = "map"
    formula: ClassVar[str] = "max or sum of p_ij over block x block cells"
    high: ClassVar[float] = 1.0

    block: int = 64
    by: str = "max"

    def __post_init__(self) -> None:
        if self.block < 1 or self.by not in ("max", "sum"):
            raise InterpError(
                "E205", f"blocks of {self.block} pooled by {self.by!r}", fix="block=64, by='max' or 'sum'"
            )

    def begin(self, problem: Problem) -> Float[Tensor, "batch head query_block key_block"]:
        queries, keys = -(-problem.n_queries // self.block), -(-problem.n_keys // self.block)
        return problem.q.new_zeros(problem.batch, problem.heads, queries, keys, dtype=problem.wide)

    def add(self, total: Tensor, part: Part) -> None:
        first = part.view.rows.indices(part.view.problem.n_queries)[0]
        cells = self._pooled(self._pooled(part.pattern).transpose(2, 3), first % self.block).transpose(2, 3)
        place = total[:, part.view.heads, first // self.block :][:, :, : cells.shape[2]]
        place.copy_(place + cells if self.by == "sum" else torch.maximum(place, cells))

    def _pooled(self, cells: Tensor, skipped: int = 0) -> Tensor:
        """The last axis by blocks, the first of which has begun before."""
        spare = -(cells.shape[-1] + skipped) % self.block
        blocks = torch.nn.functional.pad(cells, (skipped, spare)).unflatten(-1, (-1, self.block))
        return blocks.sum(-1) if self.by == "sum" else blocks.amax(-1)

    def verify(self, value: Tensor, problem: Problem) -> None:
        """No entry is above 1, and no row of a block has more than 1."""
        self.verify_range(value / (self.block if self.by == "sum" else 1), problem)
