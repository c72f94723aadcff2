"""Single entries of a pattern from a fused kernel's log sums: `p_ij = f(s_ij) / exp(lse_i)`, O(T d) for one key a query."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backends.primitives import Request, Rows


def pattern_at(
    request: Request,
    lse: Float[Tensor, "batch head query_pos"],
    keys: Int[Tensor, "#batch #head query_pos"],
) -> Float[Tensor, "batch head query_pos"]:
    """The pattern at one key for each query; 0 where it isn't seen, or where the key is -1."""
    index = keys.clamp(min=0).long().expand(lse.shape)
    products = torch.stack(
        [
            (request.q[:, head].to(lse) * _of_kv(request, head).gather(1, _wide(index[:, head], request)).to(lse)).sum(
                -1
            )
            for head in range(request.q.shape[1])
        ],
        1,
    )
    return _from_products(request, lse, products, keys.expand(lse.shape))


def diagonal(
    request: Request, lse: Float[Tensor, "batch head query_pos"], distance: int
) -> Float[Tensor, "batch head query_pos"]:
    """The pattern at the key `distance` before each query (after it where negative); 0 where there is none."""
    n_queries, n_keys = request.q.shape[2], request.k.shape[2]
    keys = torch.arange(n_queries, device=lse.device) + n_keys - n_queries - distance
    inside = (keys >= 0) & (keys < n_keys)
    first, stop = int((~inside).int().cumprod(0).sum()), int((keys < n_keys).sum())
    products = lse.new_zeros(lse.shape)
    if first < stop:
        chosen = slice(int(keys[first]), int(keys[stop - 1]) + 1)
        for head in range(request.q.shape[1]):
            near = _of_kv(request, head)[:, chosen].to(lse)
            products[:, head, first:stop] = (request.q[:, head, first:stop].to(lse) * near).sum(-1)
    return _from_products(request, lse, products, torch.where(inside, keys, -1).expand(lse.shape))


def _of_kv(request: Request, head: int) -> Float[Tensor, "batch key_pos d_head"]:
    return request.k[:, head // (request.q.shape[1] // request.k.shape[1])]


def _wide(index: Int[Tensor, "batch query_pos"], request: Request) -> Int[Tensor, "batch query_pos d_head"]:
    return index[..., None].expand(-1, -1, request.k.shape[3])


def _from_products(
    request: Request,
    lse: Float[Tensor, "batch head query_pos"],
    products: Float[Tensor, "batch head query_pos"],
    keys: Int[Tensor, "batch head query_pos"],
) -> Float[Tensor, "batch head query_pos"]:
    scores = products * request.scale
    if request.softcap is not None:
        scores = request.softcap * torch.tanh(scores / request.softcap)
    if request.slopes is not None:
        n_queries = keys.shape[2]
        at = torch.arange(n_queries, device=lse.device) + request.k.shape[2] - n_queries
        scores = scores - request.slopes.to(lse)[:, None] * (at - keys).abs()
    if request.shift is not None:
        scores = scores + request.shift
    logs = scores if request.rule == "softmax" else torch.nn.functional.logsigmoid(scores)
    seen = inside(request.rows, keys) & (lse > float("-inf"))
    return (logs - lse).masked_fill(~seen, float("-inf")).exp()


def inside(rows: Rows, keys: Int[Tensor, "batch head query_pos"]) -> Bool[Tensor, "batch head query_pos"]:
    """Whether each query sees its key."""
    near = (rows.low <= keys) & (keys < rows.high)
    return near | ((rows.first <= keys) & (keys < rows.stop))
