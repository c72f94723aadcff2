"""PyTorch's compiled FlexAttention as a backend: outputs alone, where no statistic is asked.

On CPU it returns no log sums and has no backward (torch 2.13), so nothing that follows from them is claimed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.base import Answer, Asked
from interp.kernels.backends.primitives import Request, Rows
from interp.kernels.problem import Problem
from interp.kernels.variants.base import Variant

COMPILERS = ("g++", "clang++", "c++")


class Flex:
    """Masks from the intervals of keys, scores from softcap and slopes; compiled at the first call of each shape."""

    name = "flex"
    differentiable = False

    def refuses(self, problem: Problem, variant: Variant, asked: Asked) -> str | None:
        if asked:
            return "FlexAttention gives no statistics"
        request = variant.request(problem)
        if isinstance(request, str):
            return request
        if request.rule != "softmax" or request.shift is not None:
            return f"FlexAttention has no rule {request.rule!r}"
        if variant.factor(problem, problem.q.new_zeros(problem.q.shape[:3])) is not None:
            return "rows are scaled by their log sums, which FlexAttention does not give"
        if problem.q.dtype == torch.float64:
            return "it computes in float32"
        if not problem.q.is_cuda and not any(shutil.which(name) for name in COMPILERS):
            return f"no C++ compiler: {', '.join(COMPILERS)}"
        return None

    @torch.no_grad()
    def run(self, problem: Problem, variant: Variant, asked: Asked) -> Answer:
        request = variant.request(problem)
        assert isinstance(request, Request)
        return Answer(flex_output(request, problem.kv_index), None)


def flex_output(request: Request, kv_index: list[int]) -> Float[Tensor, "batch head query_pos d_value"]:
    """Attention through FlexAttention; rows that see no key are 0."""
    from torch.nn.attention.flex_attention import create_block_mask

    batch, heads, n_queries, _ = request.q.shape
    rows = Rows(*(bound.expand(batch, heads, -1) for bound in vars(request.rows).values()))
    mask = create_block_mask(mask_of(rows), batch, heads, n_queries, request.k.shape[2], device=str(request.q.device))
    k, v = request.k[:, kv_index], request.v[:, kv_index]
    return _compiled()(request.q, k, v, score_mod=score_of(request), block_mask=mask, scale=request.scale)


def mask_of(rows: Rows) -> Callable[..., Tensor]:
    """Intervals as the callback that FlexAttention asks cell by cell."""
    low, high, first, stop = rows.low, rows.high, rows.first, rows.stop
    return lambda b, h, query, key: (
        ((key >= low[b, h, query]) & (key < high[b, h, query]))
        | ((key >= first[b, h, query]) & (key < stop[b, h, query]))
    )  # FlexAttention counts arguments, and would not see through a function that checks its types


def score_of(request: Request) -> Callable[..., Tensor] | None:
    """Softcap and slopes as the callback on scores; None where there are none."""
    cap, slopes, offset = request.softcap, request.slopes, request.k.shape[2] - request.q.shape[2]
    if slopes is None:
        return None if cap is None else lambda score, b, h, query, key: cap * torch.tanh(score / cap)
    if cap is None:
        return lambda score, b, h, query, key: score - slopes[h] * (query + offset - key).abs()
    return lambda score, b, h, query, key: cap * torch.tanh(score / cap) - slopes[h] * (query + offset - key).abs()


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
