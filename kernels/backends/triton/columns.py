"""Column sums of the pattern with any query weights, from the lse of a forward pass: `c_j = sum_i w_i exp(s_ij - L_i)`.

Each program takes a block of keys and runs through the queries that see it. Nothing is added up across programs, so
the sums are the same from run to run.
"""

from typing import no_type_check

import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.triton.blocks import GRANULE, BlockMask, extents, no_lists
from interp.kernels.backends.triton.launch import Tile, Tuned, jit, named, padded, strides
from interp.kernels.backends.triton.problem import Problem
from interp.kernels.backends.triton.ranges import query_ranges
from interp.kernels.backends.triton.scores import HIDDEN, LOG2E, finish_scores, load_bounds, load_rows, sees


@jit
@no_type_check
def columns_kernel(
    q,
    k,
    bounds,
    slopes,
    shifts,
    lse,
    weights,
    extents,
    lists,
    counts,
    out,
    scale,
    softcap,
    length,
    heads,
    query_pos,
    key_pos,
    granules,
    q_batch,
    q_head,
    q_row,
    q_column,
    k_batch,
    k_head,
    k_row,
    k_column,
    bounds_kind,
    bounds_batch,
    bounds_head,
    shift_batch,
    shift_head,
    weights_batch,
    weights_head,
    extents_kind,
    extents_batch,
    extents_head,
    list_batch,
    list_head,
    list_row,
    count_batch,
    count_head,
    WEIGHTINGS: tl.constexpr,
    WEIGHTINGS_PADDED: tl.constexpr,
    GRANULE: tl.constexpr,
    GRANULES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    FOLD: tl.constexpr,
    CAP: tl.constexpr,
    SLOPE: tl.constexpr,
    SHIFT: tl.constexpr,
    SIGMOID: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    UP: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Programs: (key block, head, batch). BLOCK_ROWS > 0: only the listed blocks of queries are visited."""
    block = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    start = block * KEYS
    keys = start + tl.arange(0, KEYS)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head // GROUP * k_head
    bounds += batch * bounds_batch + head * bounds_head
    shifts += batch * shift_batch + head * shift_head
    lse += (batch * heads + head) * query_pos
    weights += batch * weights_batch + head * weights_head
    extents += batch * extents_batch + head * extents_head
    k_tile = load_rows(k, start, key_pos, k_row, k_column, KEYS, D, D_PADDED, True, UP)
    slope = 0.0
    if SLOPE:
        slope = tl.load(slopes + head)

    whole, whole_end, begin, end = query_ranges(
        extents, extents_kind, granules, start, tl.minimum(start + KEYS, key_pos), ROWS, GRANULE, GRANULES
    )
    left = whole - begin
    borders = left + end - whole_end
    if BLOCK_ROWS > 0:
        row = start // BLOCK_KEYS
        lists += batch * list_batch + head * list_head + row * list_row
        borders = tl.load(counts + batch * count_batch + head * count_head + row) * (BLOCK_ROWS // ROWS)
    weighting = tl.arange(0, WEIGHTINGS_PADDED)
    sums = tl.zeros([KEYS, WEIGHTINGS_PADDED], tl.float32)

    for masked in tl.static_range(2):
        for n in tl.range(0, borders if masked else (0 if BLOCK_ROWS > 0 else whole_end - whole)):
            if not masked:
                tile = whole + n
            elif BLOCK_ROWS > 0:
                tile = tl.load(lists + n * ROWS // BLOCK_ROWS) * (BLOCK_ROWS // ROWS) + n % (BLOCK_ROWS // ROWS)
            else:
                tile = tl.where(n < left, begin + n, whole_end + n - left)
            i = tile * ROWS + tl.arange(0, ROWS)
            valid = i < query_pos
            q_tile = load_rows(q, tile * ROWS, query_pos, q_row, q_column, ROWS, D, D_PADDED, True, UP)
            s = tl.dot(k_tile, tl.trans(q_tile), input_precision="ieee")
            if FOLD:
                factor = scale * LOG2E
            else:
                shift = tl.zeros([ROWS], tl.float32)
                if SHIFT:
                    shift = tl.load(shifts + i, mask=valid, other=0.0)
                distance = (i + (key_pos - query_pos))[None, :] - keys[:, None]
                s = finish_scores(s, scale, softcap, slope, distance, shift[None, :], CAP, SLOPE, SHIFT, SIGMOID)
                factor = 1.0
            if masked:
                low, high, first, stop = load_bounds(bounds, i, bounds_kind, valid)
                seen = sees(keys[:, None], low[None, :], high[None, :], first[None, :], stop[None, :])
                s = tl.where(seen, s, HIDDEN)
            total = tl.load(lse + i, mask=valid, other=float("inf"))
            total = tl.where(total > float("-inf"), total * LOG2E, float("inf"))
            p = tl.exp2(s * factor - total[None, :])
            for w in tl.static_range(WEIGHTINGS):
                weight = tl.load(weights + w * query_pos + i, mask=valid, other=0.0)
                part = tl.sum(p * weight[None, :], 1)
                sums += tl.where(weighting[None, :] == w, part[:, None], 0.0)

    places = out + (((batch * heads + head) * WEIGHTINGS + weighting) * key_pos)[None, :] + keys[:, None]
    tl.store(places, sums, mask=(keys < key_pos)[:, None] & (weighting < WEIGHTINGS)[None, :])


TILES = (Tile(64, 64), Tile(64, 128, 8, 3), Tile(64, 64, 4, 3), Tile(128, 128, 8, 3))
CHOICE = ("length", "WEIGHTINGS", "FOLD", "CAP", "SIGMOID", "D_PADDED")
columns = Tuned(columns_kernel, CHOICE, TILES)


def column_sums(
    problem: Problem, lse: Float[Tensor, "batch head query_pos"], blocks: BlockMask | None = None
) -> Float[Tensor, "batch head weighting key_pos"]:
    """Sums over the queries with each of the request's weightings."""
    batch, head, _ = problem.size
    assert problem.request.columns is not None
    weights = problem.request.columns.float().contiguous()
    number, key_pos = weights.shape[2], problem.request.k.shape[2]
    seen = extents(problem.bounds)
    sums = problem.blank(batch, head, number, key_pos)
    arguments = {
        **problem.arguments,
        **(no_lists(problem.empty) if blocks is None else blocks.lists(by_keys=True)),
        "lse": lse,
        "weights": weights,
        "extents": seen,
        "out": sums,
        "granules": seen.shape[-1],
        **named(("weights_batch", "weights_head"), strides(weights)[:2]),
        **named(("extents_kind", "extents_batch", "extents_head"), (seen.stride(0), *strides(seen)[1:3])),
        "WEIGHTINGS": number,
        "WEIGHTINGS_PADDED": padded(number, 1),
        "GRANULE": GRANULE,
        "GRANULES": padded(seen.shape[-1]),
    }
    columns(
        lambda rows, keys: (-(-key_pos // keys), head, batch),
        sums.device,
        arguments,
        width=padded(problem.request.q.shape[-1]),
        itemsize=problem.request.q.element_size(),
        tile=None if blocks is None else blocks.tile,
    )
    return sums
