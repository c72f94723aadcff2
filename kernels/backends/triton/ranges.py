"""Which tiles a program visits: those that all of its rows see whole need no mask, those that none sees are left out."""

from typing import no_type_check

import triton.language as tl

from interp.kernels.backends.triton.launch import jit
from interp.kernels.backends.triton.scores import FAR


@jit
@no_type_check
def tile_ranges(low, high, first, stop, valid, from_tile, to_tile, KEYS: tl.constexpr):
    """Tiles that a block of rows must visit, within `from_tile` and `to_tile`.

    Returns the range that all rows see whole, the range that some row sees, and the range of the prefix.
    """
    some = valid & (high > low)
    begin = tl.min(tl.where(some, low, FAR))
    end = tl.max(tl.where(some, high, 0))
    whole_begin = (tl.max(tl.where(valid, tl.where(some, low, FAR), 0)) + KEYS - 1) // KEYS
    whole_end = tl.min(tl.where(valid, tl.where(some, high, 0), FAR)) // KEYS
    begin = tl.minimum(begin, end) // KEYS
    end = (end + KEYS - 1) // KEYS
    whole_begin = tl.minimum(whole_begin, end)
    whole_end = tl.maximum(tl.minimum(whole_end, end), whole_begin)
    some = valid & (stop > first)
    prefix = tl.min(tl.where(some, first, FAR)) // KEYS
    prefix_end = (tl.max(tl.where(some, stop, 0)) + KEYS - 1) // KEYS
    return (
        tl.minimum(tl.maximum(whole_begin, from_tile), to_tile),
        tl.minimum(tl.maximum(whole_end, from_tile), to_tile),
        tl.minimum(tl.maximum(begin, from_tile), to_tile),
        tl.minimum(tl.maximum(end, from_tile), to_tile),
        tl.minimum(tl.maximum(prefix, from_tile), to_tile),
        tl.minimum(tl.maximum(prefix_end, from_tile), to_tile),
    )


@jit
@no_type_check
def query_ranges(
    extents, kind_stride, granules, start, end, ROWS: tl.constexpr, GRANULE: tl.constexpr, GRANULES: tl.constexpr
):
    """Blocks of queries some of whose rows see a key from `start` to `end`, and those all of whose rows see all."""
    g = tl.arange(0, GRANULES)
    there = g < granules
    low = tl.load(extents + g, mask=there, other=FAR)
    high = tl.load(extents + g + kind_stride, mask=there, other=0)
    last_low = tl.load(extents + g + 2 * kind_stride, mask=there, other=FAR)
    first_high = tl.load(extents + g + 3 * kind_stride, mask=there, other=0)
    first = tl.load(extents + g + 4 * kind_stride, mask=there, other=FAR)
    stop = tl.load(extents + g + 5 * kind_stride, mask=there, other=0)
    some = ((low < end) & (high > start)) | ((first < end) & (stop > start))
    begin = tl.min(tl.where(some, g, FAR))
    finish = tl.max(tl.where(some, g + 1, 0))
    whole = (last_low <= start) & (first_high >= end)
    whole_begin = tl.min(tl.where(whole, g, FAR))
    whole_end = tl.minimum(tl.min(tl.where((g > whole_begin) & (whole == 0), g, FAR)), finish)
    begin = tl.minimum(begin, finish) * GRANULE // ROWS
    finish = (finish * GRANULE + ROWS - 1) // ROWS
    whole_begin = tl.minimum((tl.minimum(whole_begin, granules) * GRANULE + ROWS - 1) // ROWS, finish)
    whole_end = tl.maximum(whole_end * GRANULE // ROWS, whole_begin)
    return whole_begin, whole_end, begin, finish
