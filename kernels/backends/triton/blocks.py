"""Which blocks of queries and keys meet: extents of blocks of rows, and block masks as lists of what to visit."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.backends.triton.launch import Tile, named, strides

GRANULE = 64
"""Rows that one entry of the extents stands for."""

FAR = 1 << 30


def extents(
    bounds: Int[Tensor, "4 one_or_batch one_or_head query_pos"], size: int = GRANULE
) -> Int[Tensor, "6 one_or_batch one_or_head query_block"]:
    """What each block of rows sees: the least low, the greatest high, the greatest low, the least high, the least
    first and the greatest stop.

    Rows without an interval count only in the third and fourth, which then say that no key is seen by all rows.
    """
    low, high, first, stop = bounds
    some, prefix = high > low, stop > first
    low, high = torch.where(some, low, FAR), torch.where(some, high, 0)
    first, stop = torch.where(prefix, first, FAR), torch.where(prefix, stop, 0)
    return torch.stack(
        [
            _fold(low, size, FAR).amin(-1),
            _fold(high, size, 0).amax(-1),
            _fold(low, size, 0).amax(-1),
            _fold(high, size, FAR).amin(-1),
            _fold(first, size, FAR).amin(-1),
            _fold(stop, size, 0).amax(-1),
        ]
    )


def _fold(
    x: Int[Tensor, "one_or_batch one_or_head query_pos"], size: int, filling: int
) -> Int[Tensor, "one_or_batch one_or_head query_block {size}"]:
    missing = -x.shape[-1] % size
    return torch.nn.functional.pad(x, (0, missing), value=filling).unflatten(-1, (-1, size))


@dataclass(frozen=True)
class BlockMask:
    """Pairs of blocks that attend at all, beside what the rows see.

    Attributes:
        mask: True where some query of the block may see some key of the other.
        rows, keys: size of a block.
    """

    mask: Bool[Tensor, "one_or_batch one_or_head query_block key_block"]
    rows: int
    keys: int

    @property
    def tile(self) -> Tile:
        """The largest tile, within 128 by 64, that never crosses the border of a block."""
        return Tile(gcd(self.rows, 128), gcd(self.keys, 64))

    def visited(self, bounds: Int[Tensor, "4 one_or_batch one_or_head query_pos"]) -> BlockMask:
        """The same without the blocks that no row sees."""
        low, high, _, _, first, stop = extents(bounds, self.rows)[..., None]
        start = torch.arange(self.mask.shape[-1], dtype=torch.int32, device=self.mask.device) * self.keys
        seen = (low < start + self.keys) & (high > start) | (first < start + self.keys) & (stop > start)
        return BlockMask(self.mask & seen, self.rows, self.keys)

    def lists(self, *, by_keys: bool = False) -> dict[str, Any]:
        """The blocks of keys to visit for each block of queries (or the other way round), as arguments of a kernel."""
        mask = (self.mask.transpose(-1, -2) if by_keys else self.mask).to(torch.int8)
        order = torch.argsort(mask, dim=-1, descending=True, stable=True).to(torch.int32).contiguous()
        counts = mask.sum(-1, dtype=torch.int32)
        return {
            "lists": order,
            "counts": counts,
            "BLOCK_ROWS": self.rows,
            "BLOCK_KEYS": self.keys,
            **named(("list_batch", "list_head", "list_row"), strides(order)[:3]),
            **named(("count_batch", "count_head"), strides(counts)[:2]),
        }


def no_lists(empty: Tensor) -> dict[str, Any]:
    """The arguments of `BlockMask.lists` where every block is visited."""
    names = ("list_batch", "list_head", "list_row", "count_batch", "count_head")
    return {"lists": empty, "counts": empty, "BLOCK_ROWS": 0, "BLOCK_KEYS": 0, **dict.fromkeys(names, 0)}
