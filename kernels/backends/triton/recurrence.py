"""Linear attention with decay, chunk by chunk: time grows with the length, memory with the state alone.

`S_t = decay_t S_{t-1} + k_t v_t^T`, `o_t = scale q_t^T S_t`; the decay is a number for each head (retention,
arXiv 2307.08621; Lightning Attention, arXiv 2401.04658) or one for each channel of each token (gated linear attention,
arXiv 2312.06635). Each program keeps the state of one head, for some channels of the values, and runs along the tokens.
All arithmetic and the state are float32. Logarithms of decays are subtracted before they are exponentiated, so however
strong the decay, no factor overflows.
"""

from typing import Any, no_type_check

import torch
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.triton.launch import jit, launch, named, padded, require, stored
from interp.kernels.backends.triton.scores import load_rows

CHUNK = 32
"""Tokens of a step with one decay a head; twice as many spill registers where heads are 128 wide."""

GATED_CHUNK = 16
"""Tokens of a step with gates: their weights are computed pair by pair and channel by channel."""

VALUES = 32
"""Channels of the values that one program takes, where they divide evenly."""


@jit
@no_type_check
def decay_weights(q, k, log_decay, TOKENS: tl.constexpr, PRECISION: tl.constexpr):
    """`<q_i, k_j> exp((i - j) log_decay)` for j up to i, else 0."""
    r = tl.arange(0, TOKENS)
    apart = r[:, None] - r[None, :]
    weights = tl.exp(tl.maximum(apart, 0).to(tl.float32) * log_decay)
    return tl.where(apart >= 0, tl.dot(q, tl.trans(k), input_precision=PRECISION) * weights, 0.0)


@jit
@no_type_check
def gate_weights(q, k, total, TOKENS: tl.constexpr):
    """`sum_d q_id k_jd exp(total_id - total_jd)` for j up to i, else 0; `total` is the sum of the gates up to a token."""
    r = tl.arange(0, TOKENS)
    weights = tl.zeros([TOKENS, TOKENS], tl.float32)
    for j in tl.static_range(TOKENS):
        here = (r == j)[:, None]
        key = tl.sum(tl.where(here, k, 0.0), 0)
        start = tl.sum(tl.where(here, total, 0.0), 0)
        since = tl.where((r >= j)[:, None], total - start[None, :], 0.0)
        column = tl.where(r >= j, tl.sum(q * key[None, :] * tl.exp(since), 1), 0.0)
        weights = tl.where((r == j)[None, :], column[:, None], weights)
    return weights


@jit
@no_type_check
def recurrence_kernel(
    q,
    k,
    v,
    decays,
    start_state,
    out,
    end_state,
    scale,
    length,
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
    decay_batch,
    decay_head,
    decay_row,
    decay_column,
    GATED: tl.constexpr,
    STARTED: tl.constexpr,
    PRECISION: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    DV: tl.constexpr,
    PART: tl.constexpr,
    PART_PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Programs: (part of the value channels, head, batch)."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    part = tl.program_id(0) * PART
    place = batch * tl.num_programs(1) + head
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head + part * v_column
    decays += batch * decay_batch + head * decay_head
    out += place * length * DV + part
    d = tl.arange(0, D_PADDED)
    c = tl.arange(0, PART_PADDED)
    cells = place * (D * DV) + d[:, None] * DV + part + c[None, :]
    within = (d < D)[:, None] & (c < PART)[None, :]
    state = tl.zeros([D_PADDED, PART_PADDED], tl.float32)
    if STARTED:
        state += tl.load(start_state + cells, mask=within, other=0.0)
    r = tl.arange(0, TOKENS)
    for chunk in tl.range(0, (length + TOKENS - 1) // TOKENS):
        start = chunk * TOKENS
        there = tl.minimum(TOKENS, length - start)
        q_tile = load_rows(q, start, length, q_row, q_column, TOKENS, D, D_PADDED, True, True) * scale
        k_tile = load_rows(k, start, length, k_row, k_column, TOKENS, D, D_PADDED, True, True)
        v_tile = load_rows(v, start, length, v_row, v_column, TOKENS, PART, PART_PADDED, True, True)
        if GATED:
            gates = load_rows(decays, start, length, decay_row, decay_column, TOKENS, D, D_PADDED, True, True)
            total = tl.cumsum(gates, 0)
            whole = tl.sum(gates, 0)
            weights = gate_weights(q_tile, k_tile, total, TOKENS)
            before = tl.exp(total)
            after = tl.exp(whole[None, :] - total)
            kept = tl.exp(whole)[:, None]
        else:
            log_decay = tl.load(decays).to(tl.float32)
            weights = decay_weights(q_tile, k_tile, log_decay, TOKENS, PRECISION)
            before = tl.exp((r + 1).to(tl.float32) * log_decay)[:, None]
            after = tl.exp(tl.maximum(there - 1 - r, 0).to(tl.float32) * log_decay)[:, None]
            kept = tl.exp(there.to(tl.float32) * log_decay)
        o = tl.dot(weights, v_tile, input_precision=PRECISION)
        o = tl.dot(q_tile * before, state, o, input_precision=PRECISION)
        state = tl.dot(tl.trans(k_tile * after), v_tile, state * kept, input_precision=PRECISION)
        places = out + start.to(tl.int64) * DV + (r[:, None] * DV + c[None, :])
        tl.store(places, o.to(out.dtype.element_ty), mask=(start + r < length)[:, None] & (c < PART)[None, :])
    tl.store(end_state + cells, state, mask=within)


Inputs = Float[Tensor, "batch head pos d_head"]
Values = Float[Tensor, "batch head pos d_value"]
State = Float[Tensor, "batch head d_head d_value"]


def decay(
    q: Inputs,
    k: Inputs,
    v: Values,
    log_decay: Float[Tensor, " head"],
    *,
    chunk: int = CHUNK,
    scale: float = 1.0,
    state: State | None = None,
) -> tuple[Values, State]:
    """Linear attention with one decay a head.

    Args:
        log_decay: natural logarithm of what remains of the state after a token, at most 0.
        chunk: tokens of a step, a power of two from 16 on.
        state: to begin with; zeros where it is None.

    Returns:
        Outputs in the dtype of v, and the state after the last token in float32.

    Raises:
        InterpError: E601, no triton, or no device for it.
    """
    strides = {"decay_batch": 0, "decay_head": 1, "decay_row": 0, "decay_column": 0}
    return _run(q, k, v, log_decay.float().contiguous(), state, {**strides, "GATED": False, "TOKENS": chunk}, scale)


def gated(
    q: Inputs, k: Inputs, v: Values, log_gate: Inputs, *, scale: float = 1.0, state: State | None = None
) -> tuple[Values, State]:
    """Linear attention with a gate for each channel of each token.

    Args:
        log_gate: natural logarithm of what remains of each channel of the state when a token comes, at most 0.
        state: to begin with; zeros where it is None.

    Returns:
        Outputs in the dtype of v, and the state after the last token in float32.

    Raises:
        InterpError: E601, no triton, or no device for it.
    """
    strides = named(("decay_batch", "decay_head", "decay_row", "decay_column"), log_gate.stride())
    return _run(q, k, v, log_gate, state, {**strides, "GATED": True, "TOKENS": GATED_CHUNK}, scale)


def _run(
    q: Tensor, k: Tensor, v: Tensor, decays: Tensor, state: Tensor | None, options: dict[str, Any], scale: float
) -> tuple[Tensor, Tensor]:
    require(q.device)
    batch, head, length, d = q.shape
    width = v.shape[-1]
    out = torch.empty(v.shape, dtype=stored(v.dtype), device=v.device)
    end = torch.empty(batch, head, d, width, dtype=torch.float32, device=v.device)
    part = VALUES if width % VALUES == 0 else width
    arguments = {
        **options,
        **named(("q_batch", "q_head", "q_row", "q_column"), q.stride()),
        **named(("k_batch", "k_head", "k_row", "k_column"), k.stride()),
        **named(("v_batch", "v_head", "v_row", "v_column"), v.stride()),
        "q": q,
        "k": k,
        "v": v,
        "decays": decays,
        "start_state": end if state is None else state.float().contiguous(),
        "out": out,
        "end_state": end,
        "scale": scale,
        "length": length,
        "STARTED": state is not None,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "D": d,
        "D_PADDED": padded(d),
        "DV": width,
        "PART": part,
        "PART_PADDED": padded(part),
        "num_warps": 8,
        "num_stages": 2,
    }
    if out.numel():
        launch(recurrence_kernel, (width // part, head, batch), q.device, arguments)
    return out.to(v.dtype), end
