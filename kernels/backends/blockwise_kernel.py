"""A fused kernel in plain torch: blocks of rows with all the keys they see, in buffers that are written over and over.

A block's scores stay in the cache from the first product to the last statistic, so that a statistic costs one pass over
them, a small part of a product; and a row is read whole, so that nothing has to be corrected as more keys come.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.backends.blockwise_tile import Buffers, Tile
from interp.kernels.backends.primitives import Primitives, Request

ROWS, LEAST_ROWS = 256, 64
"""Rows of a block: more are no faster, and fewer make products slow."""
CELLS = 2**20
"""Scores of a block (4 MiB), so that they stay in the cache; long rows hold more when there are only a few of them."""

Range = tuple[int, int]


def supports(request: Request) -> str | None:
    """Why this request can't be answered; None where it can."""
    return "it computes in float32" if request.q.dtype == torch.float64 else None


@torch.no_grad()
def run(request: Request) -> Primitives:
    """Answers a request on any device."""
    answer, buffers = _empty(request), Buffers(request.q.device)
    block = min(ROWS, max(LEAST_ROWS, CELLS // request.k.shape[2]))
    band = None if request.band is None else _toeplitz(request.band, block)
    heads = request.q.shape[1]
    for batch in range(request.q.shape[0]):
        for rows, ranges in _pieces(request, batch, block):
            width = max(1, sum(stop - start for start, stop in ranges))
            step = max(1, CELLS // ((rows.stop - rows.start) * width))
            for head in range(0, heads, step):
                chosen = slice(head, min(head + step, heads))
                Tile(request, batch, chosen, rows, ranges, buffers).answer(answer, band)
    return answer


def _empty(request: Request) -> Primitives:
    batch, heads, n_queries, _ = request.q.shape

    def row(*width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return request.q.new_zeros(batch, heads, n_queries, *width, dtype=dtype)

    functionals, band, columns = request.functionals, request.band, request.columns
    return Primitives(
        output=row(request.v.shape[3], dtype=request.v.dtype) if request.output else None,
        lse=row(),
        entropy=row() if request.entropy else None,
        largest=row() if request.largest else None,
        argmax=row(dtype=torch.int32) if request.largest else None,
        squares=row() if request.squares else None,
        functionals=None if functionals is None else row(functionals.shape[-1]),
        band=None if band is None else row(len(band)),
        columns=None
        if columns is None
        else request.q.new_zeros(batch, heads, columns.shape[2], request.k.shape[2], dtype=torch.float32),
    )


def _pieces(request: Request, batch: int, block: int) -> list[tuple[slice, tuple[Range, ...]]]:
    """Blocks of rows, and the ranges of keys (none, one, or two apart) that any of their queries sees."""
    near = _of(request.rows.low, batch), _of(request.rows.high, batch)
    far = _of(request.rows.first, batch), _of(request.rows.stop, batch)
    found = []
    for start in range(0, request.q.shape[2], block):
        rows = slice(start, min(start + block, request.q.shape[2]))
        hulls = [_hull(low[:, rows], high[:, rows]) for low, high in (far, near)]
        found.append((rows, _merged([hull for hull in hulls if hull[0] < hull[1]])))
    return found


def _of(bound: Int[Tensor, "#batch #head query_pos"], batch: int) -> Int[Tensor, "#head query_pos"]:
    return bound[min(batch, bound.shape[0] - 1)]


def _hull(low: Int[Tensor, "#head row"], high: Int[Tensor, "#head row"]) -> Range:
    """The smallest range that holds all of these; empty ones count nothing."""
    low, high = torch.broadcast_tensors(low, high)
    some = high > low
    return (int(low[some].min()), int(high[some].max())) if bool(some.any()) else (0, 0)


def _merged(ranges: list[Range]) -> tuple[Range, ...]:
    """Ranges in order, those that touch as one."""
    if len(ranges) < 2:
        return tuple(ranges)
    (start, stop), (later, end) = sorted(ranges)
    return ((start, max(stop, end)),) if later <= stop else ((start, stop), (later, end))


def _toeplitz(band: Float[Tensor, "weighting distance"], rows: int) -> Float[Tensor, "weighting place column"]:
    """Weights by distance as a table: entry [r, c] is for distance `r + n - 1 - c`, 0 outside of the band."""
    spread = torch.nn.functional.pad(band.float().flip(-1), (rows - 1, rows - 1))
    return spread.unfold(-1, rows + band.shape[1] - 1, 1).flip(1)
