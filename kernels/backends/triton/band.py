"""Mass by distance: `sum_j p_ij w(i - j)` for weights that end at some distance, from the lse of a forward pass.

Only the keys near the diagonal are looked at again, so the forward pass itself costs nothing more.
"""

from typing import no_type_check

import torch
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.triton.blocks import BlockMask
from interp.kernels.backends.triton.launch import Tile, Tuned, jit, named, padded, strides
from interp.kernels.backends.triton.problem import Problem
from interp.kernels.backends.triton.scores import HIDDEN, LOG2E, finish_scores, load_bounds, load_rows, sees


@jit
@no_type_check
def band_kernel(
    q,
    k,
    bounds,
    slopes,
    shifts,
    lse,
    table,
    mask,
    out,
    scale,
    softcap,
    length,
    heads,
    query_pos,
    key_pos,
    distances,
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
    mask_batch,
    mask_head,
    mask_row,
    WEIGHTINGS: tl.constexpr,
    WEIGHTINGS_PADDED: tl.constexpr,
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
    """Programs: (query block, head, batch). BLOCK_KEYS > 0: pairs of blocks count only where the mask says so."""
    block = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    i = block * ROWS + tl.arange(0, ROWS)
    valid = i < query_pos
    position = i + (key_pos - query_pos)
    k += batch * k_batch + head // GROUP * k_head
    mask += batch * mask_batch + head * mask_head
    q += batch * q_batch + head * q_head
    q_tile = load_rows(q, block * ROWS, query_pos, q_row, q_column, ROWS, D, D_PADDED, True, UP)
    low, high, first, stop = load_bounds(bounds, batch * bounds_batch + head * bounds_head + i, bounds_kind, valid)
    slope = 0.0
    if SLOPE:
        slope = tl.load(slopes + head)
    shift = tl.zeros([ROWS], tl.float32)
    if SHIFT:
        shift = tl.load(shifts + batch * shift_batch + head * shift_head + i, mask=valid, other=0.0)
    place = (batch * heads + head) * query_pos + i
    total = tl.load(lse + place, mask=valid, other=float("inf"))
    total = tl.where(total > float("-inf"), total * LOG2E, float("inf"))
    weighting = tl.arange(0, WEIGHTINGS_PADDED)
    sums = tl.zeros([ROWS, WEIGHTINGS_PADDED], tl.float32)

    from_key = tl.maximum(block * ROWS + key_pos - query_pos - distances + 1, 0)
    to_key = tl.maximum(tl.minimum(block * ROWS + ROWS + key_pos - query_pos, key_pos), 0)
    for tile in tl.range(from_key // KEYS, (to_key + KEYS - 1) // KEYS):
        keys = tile * KEYS + tl.arange(0, KEYS)
        k_tile = load_rows(k, tile * KEYS, key_pos, k_row, k_column, KEYS, D, D_PADDED, True, UP)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        distance = position[:, None] - keys[None, :]
        if FOLD:
            factor = scale * LOG2E
        else:
            s = finish_scores(s, scale, softcap, slope, distance, shift[:, None], CAP, SLOPE, SHIFT, SIGMOID)
            factor = 1.0
        seen = sees(keys[None, :], low[:, None], high[:, None], first[:, None], stop[:, None])
        if BLOCK_KEYS > 0:
            pair = block * ROWS // BLOCK_ROWS * mask_row + tile * KEYS // BLOCK_KEYS
            seen = seen & (tl.load(mask + pair) != 0)
        p = tl.exp2(tl.where(seen, s, HIDDEN) * factor - total[:, None])
        near = (distance >= 0) & (distance < distances)
        for w in tl.static_range(WEIGHTINGS):
            weight = tl.load(table + w * distances + distance, mask=near, other=0.0)
            part = tl.sum(p * weight, 1)
            sums += tl.where(weighting[None, :] == w, part[:, None], 0.0)

    places = out + (place * WEIGHTINGS)[:, None] + weighting[None, :]
    tl.store(places, sums, mask=valid[:, None] & (weighting < WEIGHTINGS)[None, :])


TILES = (Tile(64, 64), Tile(128, 64, 8, 2))
CHOICE = ("length", "WEIGHTINGS", "FOLD", "CAP", "SIGMOID", "D_PADDED")
band = Tuned(band_kernel, CHOICE, TILES)


def band_sums(
    problem: Problem, lse: Float[Tensor, "batch head query_pos"], blocks: BlockMask | None = None
) -> Float[Tensor, "batch head query_pos weighting"]:
    """Mass under each of the request's weightings by distance."""
    batch, head, query_pos = problem.size
    assert problem.request.band is not None
    table = problem.request.band.float().contiguous()
    mask = problem.empty.reshape(1, 1, 1, 1) if blocks is None else blocks.mask.to(torch.int8)
    sums = problem.blank(batch, head, query_pos, table.shape[0])
    arguments = {
        **problem.arguments,
        "lse": lse,
        "table": table,
        "mask": mask,
        "out": sums,
        "distances": table.shape[1],
        **named(("mask_batch", "mask_head", "mask_row"), strides(mask)[:3]),
        "WEIGHTINGS": table.shape[0],
        "WEIGHTINGS_PADDED": padded(table.shape[0], 1),
        "BLOCK_ROWS": 0 if blocks is None else blocks.rows,
        "BLOCK_KEYS": 0 if blocks is None else blocks.keys,
    }
    band(
        lambda rows, keys: (-(-query_pos // rows), head, batch),
        sums.device,
        arguments,
        width=padded(problem.request.q.shape[-1]),
        itemsize=problem.request.q.element_size(),
        tile=None if blocks is None else blocks.tile,
    )
    return sums
