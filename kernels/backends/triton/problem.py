"""A request as the kernels take it: bounds in one tensor, flags instead of absent parts, functionals in 16 columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.backends.primitives import Request
from interp.kernels.backends.triton.launch import interpreting, named, padded, strides

LEAST_SCALE = 1e-6
"""Scales under it are multiplied in before the maximum: a hidden score times such a scale would not stay hidden."""

Bounds = Int[Tensor, "4 one_or_batch one_or_head query_pos"]


@dataclass(frozen=True)
class Problem:
    """A request, and what all kernels are told of it.

    Attributes:
        bounds: low, high, first and stop, within the keys that there are.
        empty: stands for tensors that a kernel does not read.
        arguments: of every attention kernel.
    """

    request: Request
    bounds: Bounds
    empty: Tensor
    arguments: dict[str, Any]

    @property
    def size(self) -> tuple[int, int, int]:
        """Batch, head and query_pos."""
        batch, head, query_pos, _ = self.request.q.shape
        return batch, head, query_pos

    @property
    def group(self) -> int:
        """Query heads that read one kv head."""
        return self.request.q.shape[1] // self.request.k.shape[1]

    def blank(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for results."""
        return torch.empty(shape, dtype=dtype, device=self.request.q.device)


def prepare(request: Request) -> Problem:
    """What the kernels need, from what was asked."""
    q, k = request.q, request.k
    if request.scale < 0:
        q = -q
    bounds, empty = stack_bounds(request), torch.empty(1, device=q.device)
    shift = empty.reshape(1, 1, 1) if request.shift is None else request.shift.float().contiguous()
    slopes = empty if request.slopes is None else request.slopes.float().contiguous()
    plain = request.softcap is None and request.slopes is None and request.shift is None and request.rule == "softmax"
    arguments = {
        "q": q,
        "k": k,
        "bounds": bounds,
        "slopes": slopes,
        "shifts": shift,
        "scale": abs(request.scale),
        "softcap": request.softcap or 0.0,
        "length": padded(k.shape[2]),
        "heads": q.shape[1],
        "query_pos": q.shape[2],
        "key_pos": k.shape[2],
        **named(("q_batch", "q_head", "q_row", "q_column"), q.stride()),
        **named(("k_batch", "k_head", "k_row", "k_column"), k.stride()),
        **named(("bounds_kind", "bounds_batch", "bounds_head"), (bounds.stride(0), *strides(bounds)[1:3])),
        **named(("shift_batch", "shift_head"), strides(shift)[:2]),
        "GROUP": q.shape[1] // k.shape[1],
        "FOLD": plain and abs(request.scale) >= LEAST_SCALE,
        "CAP": request.softcap is not None,
        "SLOPE": request.slopes is not None,
        "SHIFT": request.shift is not None,
        "SIGMOID": request.rule == "sigmoid",
        "D": q.shape[3],
        "D_PADDED": padded(q.shape[3]),
        "UP": interpreting(),
    }
    return Problem(request, bounds, empty, arguments)


def stack_bounds(request: Request) -> Bounds:
    """The four ends of the keys that each query sees; those outside of what there is are moved to its borders."""
    rows = request.rows
    ends = torch.broadcast_tensors(rows.low, rows.high, rows.first, rows.stop)
    return torch.stack([end.to(torch.int32) for end in ends]).clamp(0, request.k.shape[2])


def pack_functionals(
    functionals: Float[Tensor, "one_or_batch one_or_head key_pos functional"], dtype: torch.dtype
) -> Float[Tensor, "one_or_batch one_or_head key_pos column"]:
    """Columns for the matrix unit: the functionals, a column of ones, and zeros up to a power of two.

    For inputs of half precision each functional takes three columns of bfloat16 whose sum it is; what is left of the
    error comes from the rounded pattern, and the column of ones, which meets the same rounded pattern, takes the part
    of it away that would grow with the size of the functional (positions, say).
    """
    parts = [functionals.float()]
    if dtype != torch.float32:
        high = parts[0].bfloat16()
        middle = (parts[0] - high.float()).bfloat16()
        parts = [high, middle, (parts[0] - high.float() - middle.float()).bfloat16()]
    columns = torch.cat([*parts, torch.ones_like(parts[0][..., :1])], dim=-1)
    return torch.nn.functional.pad(columns, (0, padded(columns.shape[-1]) - columns.shape[-1])).contiguous()


def unpack_functionals(
    means: Float[Tensor, "batch head query_pos column"], count: int, dtype: torch.dtype
) -> Float[Tensor, "batch head query_pos functional"]:
    """Means under the pattern from what a kernel summed up for packed columns; 0 in rows that see no key."""
    width = count if dtype == torch.float32 else 3 * count
    total = means[..., width : width + 1]
    summed = means[..., :width].unflatten(-1, (-1, count)).sum(-2)
    return summed / torch.where(total > 0, total, 1)
