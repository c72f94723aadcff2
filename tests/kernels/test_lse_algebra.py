"""Statistics from stock attention alone, against dense rows in float64, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp.kernels.backends import lse_algebra
from interp.kernels.backends.primitives import Request, Rows

B, H, KV, D = 2, 4, 2, 16
BOUND = 4e-6


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def request(n_queries: int, n_keys: int, causal: bool, d_value: int = D) -> Request:
    at = torch.arange(n_queries, dtype=torch.int32)[None, None]
    zero = torch.zeros_like(at)
    rows = Rows(zero, at + 1 if causal else zero + n_keys, zero, zero)
    return Request(
        tensor(B, H, n_queries, D), tensor(B, KV, n_keys, D, seed=1), tensor(B, KV, n_keys, d_value, seed=2), D**-0.5, rows
    )  # fmt: skip


def dense(asked: Request) -> tuple[Tensor, Tensor]:
    """Scores and pattern in float64."""
    scores = asked.q.double() @ asked.k.double().repeat_interleave(2, 1).transpose(2, 3) * asked.scale
    keys = torch.arange(scores.shape[-1])
    scores = scores.masked_fill(keys >= asked.rows.high[..., None], float("-inf"))
    return scores, scores.softmax(-1)


SHAPES = [(1, 1, True), (33, 33, True), (130, 130, True), (33, 33, False), (9, 40, False), (40, 9, False)]


@pytest.mark.parametrize(("n_queries", "n_keys", "causal"), SHAPES)
@pytest.mark.parametrize("d_value", [D, 5, 40])
def test_all_numbers_are_exact(n_queries: int, n_keys: int, causal: bool, d_value: int) -> None:
    asked = replace(
        request(n_queries, n_keys, causal, d_value),
        entropy=True,
        squares=True,
        functionals=tensor(B, H, n_keys, 3, seed=3),
        band=tensor(2, 6, seed=4),
        columns=tensor(B, H, 2, n_queries, seed=5),
    )
    found = lse_algebra.run(asked)
    scores, p = dense(asked)
    distance = torch.arange(n_queries)[:, None] + n_keys - n_queries - torch.arange(n_keys)
    near = (distance >= 0) & (distance < 6)
    weights = torch.where(near, asked.band[:, distance.clamp(0, 5)], 0).double()
    wanted = {
        "output": p @ asked.v.double().repeat_interleave(2, 1),
        "lse": scores.logsumexp(-1),
        "entropy": torch.special.entr(p).sum(-1),
        "squares": p.square().sum(-1),
        "functionals": p @ asked.functionals.double(),
        "band": torch.einsum("bhqk,wqk->bhqw", p, weights),
        "columns": torch.einsum("bhqk,bhwq->bhwk", p, asked.columns.double()),
    }
    for name, value in wanted.items():
        error = float((getattr(found, name).double() - value).abs().max() / value.abs().max().clamp(min=1))
        assert error <= BOUND, f"{name}: {error:.1e}"


def test_queries_of_weight_zero_count_nothing() -> None:
    weights = torch.zeros(1, 1, 2, 33)
    weights[..., 0, -3:] = 1
    asked = replace(request(33, 33, True), columns=weights)
    _, p = dense(asked)
    found = lse_algebra.run(asked).columns
    assert found is not None
    torch.testing.assert_close(found[:, :, 0].double(), p[:, :, -3:].sum(2), atol=BOUND, rtol=0)
    assert float(found[:, :, 1].abs().max()) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"largest": True}, "largest"),
        ({"rule": "sigmoid"}, "sigmoid"),
        ({"softcap": 2.0}, "scores"),
        ({"slopes": torch.ones(H)}, "scores"),
        ({"shift": torch.ones(1, 1, 12)}, "scores"),
        ({"band": torch.ones(1, 65)}, "65"),
    ],
)
def test_what_no_sum_tells_is_refused(change: dict[str, object], reason: str) -> None:
    assert lse_algebra.supports(request(12, 12, True)) is None
    assert reason in (lse_algebra.supports(replace(request(12, 12, True), **change)) or "")


def test_masks_that_stock_attention_does_not_have_are_refused() -> None:
    asked = request(12, 12, True)
    at = torch.arange(12, dtype=torch.int32)[None, None]
    window = Rows((at - 3).clamp(min=0), at + 1, at * 0, at * 0)
    prefix = Rows(at * 0, at + 1, at * 0, at * 0 + 4)
    for rows in (window, prefix):
        assert "causal or full" in (lse_algebra.supports(replace(asked, rows=rows)) or "")
    decoding = request(4, 12, False)
    rows = Rows(decoding.rows.low, (at[..., :4] + 9), decoding.rows.low, decoding.rows.low)
    assert "causal or full" in (lse_algebra.supports(replace(decoding, rows=rows)) or "")
