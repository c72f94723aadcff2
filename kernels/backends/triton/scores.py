"""What all attention kernels share: loading rows, scores from dot products, and which keys a row sees.

Scores are kept in powers of two (`s log2(e)`), for which GPUs have an instruction. Hidden scores are huge and finite
rather than -inf, so that no `inf - inf` and no `0 * inf` can arise: rows that have seen no key yet stand at `FLOOR`,
and hidden scores lie so far below it that their exponentials are exactly 0.
"""

from typing import no_type_check

import triton.language as tl

from interp.kernels.backends.triton.launch import jit

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
FLOOR = tl.constexpr(-1e20)
HIDDEN = tl.constexpr(-1e30)
FAR = tl.constexpr(1 << 30)


@jit
@no_type_check
def load_rows(
    base,
    start,
    limit,
    row_stride,
    column_stride,
    COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    CUT: tl.constexpr,
    UP: tl.constexpr,
):
    """Rows `start` to `start + COUNT` of a matrix; zeros beyond WIDTH and, where CUT, from row `limit` on.

    With UP, in float32: the interpreter has no bfloat16 arithmetic.
    """
    rows = tl.arange(0, COUNT)
    columns = tl.arange(0, PADDED)
    places = (
        base + tl.cast(start, tl.int64) * row_stride + (rows[:, None] * row_stride + columns[None, :] * column_stride)
    )
    if CUT:
        x = tl.load(places, mask=(start + rows < limit)[:, None] & (columns < WIDTH)[None, :], other=0.0)
    elif WIDTH < PADDED:
        x = tl.load(places, mask=(columns < WIDTH)[None, :] & (rows >= 0)[:, None], other=0.0)
    else:
        x = tl.load(places)
    if UP:
        x = x.to(tl.float32)
    return x


@jit
@no_type_check
def tanh(x):
    """Hyperbolic tangent; a series where `1 - exp(-2 |x|)` would cancel."""
    decay = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))
    far = (1.0 - decay) / (1.0 + decay)
    square = x * x
    near = x * (
        1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0))))
    )
    return tl.where(square < 0.04, near, tl.where(x < 0, -far, far))


@jit
@no_type_check
def finish_scores(
    products,
    scale,
    softcap,
    slope,
    distance,
    shift,
    CAP: tl.constexpr,
    SLOPE: tl.constexpr,
    SHIFT: tl.constexpr,
    SIGMOID: tl.constexpr,
):
    """`log2 f(s)` from `<q, k>`, where f = exp, or the sigmoid."""
    s = products * scale
    if CAP:
        s = softcap * tanh(s / softcap)
    if SLOPE:
        s -= slope * tl.abs(distance).to(tl.float32)
    if SHIFT:
        s += shift
    if SIGMOID:
        s = tl.minimum(s, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(s)))
    return s * LOG2E


@jit
@no_type_check
def load_bounds(bounds, places, kind_stride, valid):
    """Interval and prefix of each row, none where not valid."""
    low = tl.load(bounds + places, mask=valid, other=0)
    high = tl.load(bounds + places + kind_stride, mask=valid, other=0)
    first = tl.load(bounds + places + 2 * kind_stride, mask=valid, other=0)
    stop = tl.load(bounds + places + 3 * kind_stride, mask=valid, other=0)
    return low, high, first, stop


@jit
@no_type_check
def sees(key, low, high, first, stop):
    """Whether a row sees a key; all of shapes that broadcast."""
    return ((key >= low) & (key < high)) | ((key >= first) & (key < stop))
