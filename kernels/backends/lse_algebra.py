"""Exact statistics from stock attention that returns its log sums: a few calls of it, on any device, and no kernel of ours.

What follows from what: means of numbers of keys from attention whose values are those numbers; entropy from attention
whose values are the keys, `H_i = L_i - a <q_i, sum_j p_ij k_j>`; the sum of squares from log sums at twice the scale,
`exp(L_i(2a) - 2 L_i(a))`; near keys one by one; and what keys receive from attention with roles exchanged, where
query i weighs `log w_i - L_i`: `c_j = exp(log sum_i exp(s_ij - L_i + log w_i))`.
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives, Request
from interp.kernels.statistics.reading import diagonal

NEAR = 64
"""Distances that are read one by one; more would cost as much as attention does."""
NOTHING = -1e9
"""The logarithm of a query's weight 0."""


def supports(request: Request) -> str | None:
    """Why this request can't be answered; None where it can."""
    if request.rule != "softmax":
        return f"stock attention has no rule {request.rule!r}"
    if request.softcap is not None or request.slopes is not None or request.shift is not None:
        return "stock attention changes no scores"
    if request.largest:
        return "no sum tells which key is the largest"
    if request.band is not None and request.band.shape[1] > NEAR:
        return f"near keys are read one by one, and {request.band.shape[1]} are too many"
    if request.q.device.type not in ("cpu", "cuda"):
        return f"no stock attention that returns log sums is known on {request.q.device.type}"
    return None if _is_full(request) or _is_causal(request) else "stock attention is causal or full, without padding"


@torch.no_grad()
def run(request: Request) -> Primitives:
    """Answers a request in float32 or better."""
    wide = torch.promote_types(request.q.dtype, torch.float32)
    q, causal = request.q.to(wide), not _is_full(request)
    group = q.shape[1] // request.k.shape[1]
    k, v = (x.to(wide).repeat_interleave(group, 1) for x in (request.k, request.v))
    output, lse = attend(q, k, v, causal, request.scale)
    answer = Primitives(output.to(request.v.dtype) if request.output else None, lse)
    if request.entropy:
        mean_key, _ = attend(q, k, k, causal, request.scale)
        answer.entropy = lse - request.scale * einsum(q, mean_key, "b h q d, b h q d -> b h q")
    if request.squares:
        answer.squares = (attend(q, k, v, causal, 2 * request.scale)[1] - 2 * lse).exp()
    if request.functionals is not None:
        values = request.functionals.to(wide).expand(*k.shape[:3], -1)
        answer.functionals = attend(q, k, values, causal, request.scale)[0]
    if request.band is not None:
        near = torch.stack([diagonal(request, lse, distance) for distance in range(request.band.shape[1])], -1)
        answer.band = einsum(near, request.band.to(wide), "b h q distance, w distance -> b h q w")
    if request.columns is not None:
        columns = request.columns.to(wide).expand(*q.shape[:2], -1, -1)
        answer.columns = torch.stack(
            [received(q * request.scale, k, lse, weights, causal) for weights in columns.unbind(2)], 2
        )
    return answer


def received(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch head key_pos d_head"],
    lse: Float[Tensor, "batch head query_pos"],
    weights: Float[Tensor, "batch head query_pos"],
    causal: bool,
) -> Float[Tensor, "batch head key_pos"]:
    """`sum_i w_i exp(<q_i, k_j> - L_i)`; weights of either sign by themselves."""
    total = k.new_zeros(k.shape[:3])
    for sign in (1, -1):
        parts = (sign * weights).clamp(min=0)
        if not bool((parts > 0).any()):
            continue
        logs = torch.where(parts > 0, parts.clamp(min=torch.finfo(parts.dtype).tiny).log() - lse, NOTHING)
        asking = torch.cat([k, torch.ones_like(k[..., :1])], -1)
        asked = torch.cat([q, logs[..., None]], -1)
        if causal:  # seen from the end, keys look back at the queries
            asking, asked = asking.flip(2), asked.flip(2)
        sums = attend(asking, asked, asked, causal, 1.0)[1].exp()
        total += sign * (sums.flip(2) if causal else sums)
    return total


def attend(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch head key_pos d_head"],
    v: Float[Tensor, "batch head key_pos d_value"],
    causal: bool,
    scale: float,
) -> tuple[Float[Tensor, "batch head query_pos d_value"], Float[Tensor, "batch head query_pos"]]:
    """Stock attention and its log sums. It wants values as wide as keys: narrower ones get zeros, wider ones more calls."""
    width = k.shape[-1]
    pieces = [_stock(q, k, piece, causal, scale) for piece in v.split(width, -1)]
    output = torch.cat([piece for piece, _ in pieces], -1)
    return output, pieces[0][1]


def _stock(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    spare = -k.shape[-1] % 4 if q.is_cuda else 0  # the CUDA operation wants aligned rows
    q, k = (torch.nn.functional.pad(x, (0, spare)) for x in (q, k))
    values = torch.nn.functional.pad(v, (0, k.shape[-1] - v.shape[-1])).contiguous()
    if q.is_cuda:
        output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            q.contiguous(), k.contiguous(), values, None, True, 0.0, causal, scale=scale
        )
        lse = lse[..., : q.shape[2]]
    else:
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q.contiguous(), k.contiguous(), values, 0.0, causal, scale=scale
        )
    return output[..., : v.shape[-1]], lse.to(output.dtype)


def _is_full(request: Request) -> bool:
    rows, n_keys = request.rows, request.k.shape[2]
    return _one_interval(request) and bool((rows.low == 0).all() and (rows.high == n_keys).all())


def _is_causal(request: Request) -> bool:
    rows, n_queries, n_keys = request.rows, request.q.shape[2], request.k.shape[2]
    ends = torch.arange(1, n_keys + 1, device=rows.high.device)
    square = n_queries == n_keys and _one_interval(request)  # stock causality is aligned at the top left
    return square and bool((rows.low == 0).all() and (rows.high == ends).all())


def _one_interval(request: Request) -> bool:
    return bool((request.rows.stop <= request.rows.first).all())
