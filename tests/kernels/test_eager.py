"""Plain attention against loops, scipy, torch's own attention and transformers' eager code."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from interp.kernels.backends.eager import attention_pattern, attention_scores, repeat_kv, z_from_pattern

B, H, KV, Q, K, D = 2, 4, 2, 5, 7, 3


def tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def causal(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Additive mask [1 1 n n]: the dtype's minimum above the diagonal."""
    return torch.full((n, n), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("extra", ["nothing", "mask", "bias"])
def test_scores_are_those_of_a_loop(softcap: float | None, extra: str) -> None:
    q, k, added = tensor(B, H, Q, D), tensor(B, H, K, D, seed=1), tensor(B, 1, Q, K, seed=2)
    given = {} if extra == "nothing" else {extra: added}
    scores = attention_scores(q, k, 0.37, softcap=softcap, **given)
    for b in range(B):
        for h in range(H):
            for i in range(Q):
                for j in range(K):
                    one = 0.37 * sum(float(q[b, h, i, d] * k[b, h, j, d]) for d in range(D))
                    one = one if softcap is None else softcap * math.tanh(one / softcap)
                    one += float(added[b, 0, i, j]) if given else 0.0
                    assert float(scores[b, h, i, j]) == pytest.approx(one, abs=1e-12)


def test_pattern_is_a_softmax_over_keys() -> None:
    scores = 10 * tensor(B, H, Q, K)
    torch.testing.assert_close(
        attention_pattern(scores), torch.from_numpy(softmax(scores.numpy(), -1)), atol=1e-14, rtol=0
    )


def test_a_sink_is_one_more_key_that_holds_no_value() -> None:
    scores, sink = tensor(B, H, Q, K), tensor(H, seed=1)
    column = sink[None, :, None, None].expand(B, H, Q, 1)
    wanted = torch.from_numpy(softmax(torch.cat([scores, column], -1).numpy(), -1))[..., :-1]
    pattern = attention_pattern(scores, sink=sink)
    torch.testing.assert_close(pattern, wanted, atol=1e-14, rtol=0)
    assert bool((pattern.sum(-1) < 1).all())


@pytest.mark.parametrize("sink", [None, torch.zeros(H)])
def test_pattern_of_huge_scores_is_finite_and_masked_cells_are_exactly_zero(sink: Tensor | None) -> None:
    scores = 1e4 * tensor(B, H, Q, Q, dtype=torch.float32) + causal(Q, torch.float32)
    pattern = attention_pattern(scores, sink=sink)
    assert bool(pattern.isfinite().all())
    assert not pattern.triu(1).any()


def test_half_precision_softmax_is_rounded_once_from_float32() -> None:
    scores = tensor(B, H, Q, K, dtype=torch.bfloat16)
    wanted = torch.from_numpy(softmax(scores.float().numpy(), -1)).bfloat16()
    assert torch.equal(attention_pattern(scores), wanted)


def test_z_is_the_weighted_sum_of_values_with_heads_beside_d_head() -> None:
    pattern, v = attention_pattern(tensor(B, H, Q, K)), tensor(B, H, K, D, seed=1)
    z = z_from_pattern(pattern, v)
    assert z.shape == (B, Q, H, D) and z.is_contiguous()
    for h in range(H):
        torch.testing.assert_close(z[:, :, h], pattern[:, h] @ v[:, h], atol=1e-12, rtol=0)


def test_query_head_reads_the_key_value_head_of_its_group() -> None:
    x = tensor(B, KV, K, D)
    repeated = repeat_kv(x, H // KV)
    assert repeated.shape == (B, H, K, D)
    assert all(torch.equal(repeated[:, h], x[:, h * KV // H]) for h in range(H))
    assert repeat_kv(x, 1) is x


def test_all_of_it_is_torchs_own_attention() -> None:
    q, k, v = tensor(B, H, Q, D), tensor(B, KV, Q, D, seed=1), tensor(B, KV, Q, D, seed=2)
    scores = attention_scores(q, repeat_kv(k, H // KV), D**-0.5, mask=causal(Q))
    z = z_from_pattern(attention_pattern(scores), repeat_kv(v, H // KV))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(z, wanted.transpose(1, 2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_float32_agrees_with_transformers_eager_code_to_the_last_bit(family: str) -> None:
    from importlib import import_module

    eager = import_module(f"transformers.models.{family}.modeling_{family}").eager_attention_forward
    module = torch.nn.Module().eval()
    module.num_key_value_groups = H // KV  # type: ignore[assignment]
    module.sinks = tensor(H, seed=3, dtype=torch.float32)
    q, k, v = (tensor(B, n, Q, D, seed=n, dtype=torch.float32) for n in (H, KV, KV))
    softcap = {"softcap": 1.5} if family == "gemma2" else {}
    mask = causal(Q, torch.float32)
    wanted_z, wanted_pattern = eager(module, q, k, v, mask, scaling=0.3, dropout=0.0, **softcap)
    scores = attention_scores(q, repeat_kv(k, H // KV), 0.3, mask=mask, softcap=softcap.get("softcap"))
    pattern = attention_pattern(scores, sink=module.sinks if family == "gpt_oss" else None)
    assert torch.equal(pattern, wanted_pattern)
    assert torch.equal(z_from_pattern(pattern, repeat_kv(v, H // KV)), wanted_z)


@pytest.mark.parametrize("normaliser", ["relu", "sigmoid"])
def test_unnormalised_patterns_equal_a_plain_loop(normaliser):
    scores = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.full((5, 5), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)
    mask[:, 0] = torch.finfo(torch.float64).min  # a padded key, so that the first query sees nothing
    pattern = attention_pattern(scores + mask, normaliser=normaliser)
    for batch, head, row, key in product(range(2), range(3), range(5), range(5)):
        score, seen = scores[batch, head, row, key].item(), max(row, 1)
        visible = 1 <= key <= row
        value = max(score, 0) / seen if normaliser == "relu" else 1 / (1 + seen * math.exp(-score))
        assert pattern[batch, head, row, key].item() == pytest.approx(value if visible else 0, abs=1e-12)
