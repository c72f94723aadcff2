"""Flash attention forward: output, lse, and the statistics of a row, all in one pass over the keys.

Each program takes a block of queries. Tiles of keys that all of its rows see need no mask and come first; those at the
borders of the intervals, and those of the prefix, follow; the others are never touched. What a statistic costs is
compiled in only where it is asked for. Online updates: Milakov & Gimelshein 2018 (arXiv 1805.02867), Dao 2023
(arXiv 2307.08691); for the entropy, with z = s - m and `e = sum exp(z) z`, `e <- a (e + (m_old - m) l) + sum exp(z) z`.
"""

from typing import no_type_check

import triton.language as tl

from interp.kernels.backends.triton.launch import Tile, Tuned, jit
from interp.kernels.backends.triton.ranges import tile_ranges
from interp.kernels.backends.triton.scores import (
    FLOOR,
    HIDDEN,
    LN2,
    LOG2E,
    finish_scores,
    load_bounds,
    load_rows,
    sees,
)


@jit
@no_type_check
def forward_kernel(
    q,
    k,
    v,
    bounds,
    slopes,
    shifts,
    functionals,
    lists,
    counts,
    out,
    out_lse,
    out_mass,
    out_entropy,
    out_argmax,
    out_squares,
    out_means,
    scale,
    softcap,
    length,
    heads,
    query_pos,
    key_pos,
    splits,
    q_batch,
    q_head,
    q_row,
    q_column,
    k_batch,
    k_head,
    k_row,
    k_column,
    v_batch,
    v_head,
    v_row,
    v_column,
    bounds_kind,
    bounds_batch,
    bounds_head,
    shift_batch,
    shift_head,
    means_batch,
    means_head,
    list_batch,
    list_head,
    list_row,
    count_batch,
    count_head,
    GROUP: tl.constexpr,
    PACKED: tl.constexpr,
    PARTIAL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    FOLD: tl.constexpr,
    CAP: tl.constexpr,
    SLOPE: tl.constexpr,
    SHIFT: tl.constexpr,
    SIGMOID: tl.constexpr,
    OUTPUT: tl.constexpr,
    ENTROPY: tl.constexpr,
    LARGEST: tl.constexpr,
    SQUARES: tl.constexpr,
    MEANS: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    DV: tl.constexpr,
    DV_PADDED: tl.constexpr,
    UP: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Programs: (query block and split of the keys, head or kv head, batch).

    PACKED: the queries of all GROUP heads of a kv head lie in one block. PARTIAL: the state is stored instead of what
    follows from it. BLOCK_KEYS > 0: only the listed blocks of keys are visited. MEANS: columns of the functionals.
    """
    block = (tl.num_programs(0) - 1 - tl.program_id(0)) // splits
    split = tl.program_id(0) % splits
    batch = tl.program_id(2).to(tl.int64)
    r = block * ROWS + tl.arange(0, ROWS)
    if PACKED:
        kv_head = tl.program_id(1).to(tl.int64)
        head = kv_head * GROUP + r // query_pos
        i = r % query_pos
        valid = r < GROUP * query_pos
    else:
        head = tl.program_id(1).to(tl.int64)
        kv_head = head // GROUP
        functionals += head * means_head
        i = r
        valid = r < query_pos
    low, high, first, stop = load_bounds(bounds, batch * bounds_batch + head * bounds_head + i, bounds_kind, valid)
    columns = tl.arange(0, D_PADDED)
    rows = q + batch * q_batch + (head * q_head + i.to(tl.int64) * q_row)
    q_tile = tl.load(
        rows[:, None] + columns[None, :] * q_column, mask=valid[:, None] & (columns < D)[None, :], other=0.0
    )
    if UP:
        q_tile = q_tile.to(tl.float32)
    slope = tl.zeros([ROWS], tl.float32)
    if SLOPE:
        slope += tl.load(slopes + (head + tl.zeros([ROWS], tl.int32)), mask=valid, other=0.0)
    shift = tl.zeros([ROWS], tl.float32)
    if SHIFT:
        shift = tl.load(shifts + (batch * shift_batch + head * shift_head + i), mask=valid, other=0.0)
    k += batch * k_batch + kv_head * k_head
    v += batch * v_batch + kv_head * v_head
    functionals += batch * means_batch

    m = tl.full([ROWS], FLOOR, tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    o = tl.zeros([ROWS, DV_PADDED], tl.float32)
    entropy = tl.zeros([ROWS], tl.float32)
    squares = tl.zeros([ROWS], tl.float32)
    best = tl.full([ROWS], -1, tl.int32)
    means = tl.zeros([ROWS, MEANS if MEANS > 0 else 16], tl.float32)

    tiles = (key_pos + KEYS - 1) // KEYS
    whole, whole_end, begin, end, prefix, prefix_end = tile_ranges(
        low, high, first, stop, valid, split * tiles // splits, (split + 1) * tiles // splits, KEYS
    )
    left = whole - begin
    right = left + end - whole_end
    before = right + tl.maximum(tl.minimum(prefix_end, begin) - prefix, 0)
    after = tl.maximum(prefix, end)
    borders = before + tl.maximum(prefix_end - after, 0)
    if BLOCK_KEYS > 0:
        row = block * ROWS // BLOCK_ROWS
        lists += batch * list_batch + head * list_head + row * list_row
        borders = tl.load(counts + batch * count_batch + head * count_head + row) * (BLOCK_KEYS // KEYS)

    for masked in tl.static_range(2):
        for n in tl.range(0, borders if masked else (0 if BLOCK_KEYS > 0 else whole_end - whole)):
            if not masked:
                tile = whole + n
            elif BLOCK_KEYS > 0:
                tile = tl.load(lists + n * KEYS // BLOCK_KEYS) * (BLOCK_KEYS // KEYS) + n % (BLOCK_KEYS // KEYS)
            else:
                tile = tl.where(n < left, begin + n, whole_end + n - left)
                tile = tl.where(n < right, tile, prefix + n - right)
                tile = tl.where(n < before, tile, after + n - before)
            start = tile * KEYS
            keys = start + tl.arange(0, KEYS)
            k_tile = load_rows(k, start, key_pos, k_row, k_column, KEYS, D, D_PADDED, masked, UP)
            s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
            if FOLD:
                factor = scale * LOG2E
            else:
                distance = (i + (key_pos - query_pos))[:, None] - keys[None, :]
                s = finish_scores(
                    s, scale, softcap, slope[:, None], distance, shift[:, None], CAP, SLOPE, SHIFT, SIGMOID
                )
                factor = 1.0
            if masked:
                seen = sees(keys[None, :], low[:, None], high[:, None], first[:, None], stop[:, None])
                s = tl.where(seen, s, HIDDEN)
            top = tl.max(s, 1)
            m_new = tl.maximum(m, top * factor)
            if LARGEST:
                hit = start + tl.min(tl.where(s == top[:, None], tl.arange(0, KEYS)[None, :], KEYS), 1)
                best = tl.where((top * factor > m) | ((top * factor == m) & (hit < best)), hit, best)
            z = s * factor - m_new[:, None]
            p = tl.exp2(z)
            keep = tl.exp2(m - m_new)
            if ENTROPY:
                entropy = keep * (entropy + (m - m_new) * mass) + tl.sum(p * z, 1)
            if SQUARES:
                squares = keep * keep * squares + tl.sum(p * p, 1)
            mass = keep * mass + tl.sum(p, 1)
            if OUTPUT:
                v_tile = load_rows(v, start, key_pos, v_row, v_column, KEYS, DV, DV_PADDED, masked, UP)
                o = tl.dot(p.to(v_tile.dtype), v_tile, o * keep[:, None], input_precision="ieee")
            if MEANS > 0:
                f_tile = load_rows(functionals, start, key_pos, MEANS, 1, KEYS, MEANS, MEANS, masked, UP)
                means = tl.dot(p.to(f_tile.dtype), f_tile, means * keep[:, None], input_precision="ieee")
            m = m_new

    seen = mass > 0
    if not PARTIAL:
        inverse = tl.where(seen, 1.0 / tl.where(seen, mass, 1.0), 0.0)
        logarithm = tl.log2(tl.where(seen, mass, 1.0))
        o = o * (tl.exp2(m) if SIGMOID else inverse)[:, None]
        entropy = tl.where(seen, tl.maximum(logarithm - entropy * inverse, 0.0), 0.0)
        squares *= inverse * inverse
        m = tl.where(seen, m + logarithm, float("-inf"))
        mass = inverse
    place = ((split * tl.num_programs(2) + batch) * heads + head) * query_pos + i
    tl.store(out_lse + place, m * LN2, mask=valid)
    if PARTIAL or LARGEST:
        tl.store(out_mass + place, mass, mask=valid)
    if ENTROPY:
        tl.store(out_entropy + place, entropy * LN2, mask=valid)
    if LARGEST:
        tl.store(out_argmax + place, tl.where(seen, best, -1), mask=valid)
    if SQUARES:
        tl.store(out_squares + place, squares, mask=valid)
    if OUTPUT:
        columns = tl.arange(0, DV_PADDED)
        places = out + (place * DV)[:, None] + columns[None, :]
        tl.store(places, o.to(out.dtype.element_ty), mask=valid[:, None] & (columns < DV)[None, :])
    if MEANS > 0:
        columns = tl.arange(0, MEANS)
        places = out_means + (place * MEANS)[:, None] + columns[None, :]
        tl.store(places, means, mask=valid[:, None] & (columns < MEANS)[None, :])


TILES = (Tile(64, 64), Tile(128, 64, 8, 3), Tile(128, 128, 8, 2), Tile(64, 32, 4, 3))
CHOICE = (
    "length",
    "MEANS",
    "ENTROPY",
    "LARGEST",
    "SQUARES",
    "OUTPUT",
    "FOLD",
    "CAP",
    "SIGMOID",
    "D_PADDED",
    "DV_PADDED",
)
forward = Tuned(forward_kernel, CHOICE, TILES)
