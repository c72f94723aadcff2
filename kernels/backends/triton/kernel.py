"""The triton kernels as one that answers requests: which it takes, and how it goes about them."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Bool
from torch import Tensor

from interp.kernels.backends.primitives import Primitives, Request
from interp.kernels.backends.triton.blocks import BlockMask
from interp.kernels.backends.triton.decode import decode_pass, parts_for
from interp.kernels.backends.triton.launch import DTYPES, interpreting, require, unusable
from interp.kernels.backends.triton.problem import Problem, prepare
from interp.kernels.backends.triton.row_pass import forward_pass
from interp.kernels.errors import InterpError

WIDEST = 256
"""Largest d_head and d_value."""


def supports(request: Request) -> str | None:
    """Why the kernels can't answer a request; None where they can."""
    q, k, v = request.q, request.k, request.v
    if reason := unusable(q.device):
        return reason
    if q.dtype not in DTYPES or len({q.dtype, k.dtype, v.dtype}) > 1:
        return f"triton takes float32, float16 and bfloat16, all alike, not {q.dtype}, {k.dtype}, {v.dtype}"
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return f"triton takes heads up to {WIDEST} wide, not {max(q.shape[-1], v.shape[-1])}"
    return None


def run(
    request: Request,
    *,
    blocks: Bool[Tensor, "one_or_batch one_or_head query_block key_block"] | None = None,
    block_size: int | tuple[int, int] = 64,
    parts: int | None = None,
) -> Primitives:
    """Answers a request.

    Args:
        blocks: pairs of blocks that attend; the others are skipped, whatever the rows see.
        block_size: of queries and keys; multiples of 16.
        parts: into how many parts to cut the keys, for few queries; chosen where it is None.

    Raises:
        InterpError: E601, no triton, or no device for it; E205, a request that the kernels don't take; E206, blocks
            that don't fit the lengths.
    """
    require(request.q.device)
    if reason := supports(request):
        raise InterpError("E205", reason, fix="backend='auto' takes one that can")
    from interp.kernels.backends.triton.band import band_sums
    from interp.kernels.backends.triton.columns import column_sums

    problem = prepare(request)
    mask = None if blocks is None else _block_mask(problem, blocks, block_size)
    parts = (parts_for(problem) if parts is None else parts) if mask is None else 1
    answer = decode_pass(problem, parts) if parts > 1 else forward_pass(problem, mask)
    answer.band = None if request.band is None else band_sums(problem, answer.lse, mask)
    answer.columns = None if request.columns is None else column_sums(problem, answer.lse, mask)
    return replace(answer, notes=_notes(parts))


def _notes(parts: int) -> tuple[str, ...]:
    shared = (f"keys in {parts} parts",) if parts > 1 else ()
    return (*shared, "interpreted, on the CPU") if interpreting() else shared


def _block_mask(
    problem: Problem,
    blocks: Bool[Tensor, "one_or_batch one_or_head query_block key_block"],
    size: int | tuple[int, int],
) -> BlockMask:
    """The mask, without the blocks that no row sees."""
    rows, keys = (size, size) if isinstance(size, int) else size
    needed = (-(-problem.size[2] // rows), -(-problem.request.k.shape[2] // keys))
    if rows % 16 or keys % 16:
        raise InterpError("E206", f"blocks of {rows} queries and {keys} keys", fix="take multiples of 16")
    if tuple(blocks.shape[2:]) != needed:
        raise InterpError(
            "E206",
            f"{tuple(blocks.shape[2:])} blocks",
            fix=f"{needed} blocks of {rows} queries and {keys} keys cover all",
        )
    return BlockMask(blocks, rows, keys).visited(problem.bounds)
