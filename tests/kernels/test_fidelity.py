"""Fidelity of one operator to another, against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.backends import blockwise
from interp.kernels.errors import InterpError
from interp.kernels.fidelity import MEASURES, fidelity
from interp.kernels.problem import Problem
from interp.kernels.variants.blocks import BlockTopK
from interp.kernels.variants.decay import Retention
from interp.kernels.variants.expert_choice import ExpertChoice
from interp.kernels.variants.feature_mapped import LinearAttention
from interp.kernels.variants.inline import InLine
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.window import Window

B, H, KV, N, D = 2, 4, 2, 19, 3


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = tensor(B, H, N, D), tensor(B, KV, N, D, seed=1), tensor(B, KV, N, D + 1, seed=2)


def rows(operator: Softmax | LinearAttention) -> list[list[list[list[float]]]]:
    """Weights as lists; these operators are held against loops of their own elsewhere."""
    problem = Problem(Q, K, V, D**-0.5, head_index=tuple(range(H)), n_heads=H)
    return operator.weights(problem.view()).values.tolist()


@pytest.mark.parametrize("operator", [Window(size=4), LinearAttention()], ids=["window", "linear"])
def test_measures_against_a_loop(operator: Window | LinearAttention) -> None:
    found = fidelity(Q, K, V, operator)
    ours, dense = rows(operator), rows(Softmax())
    for b in range(B):
        for h in range(H):
            for i in range(N):
                p, ref = ours[b][h][i], dense[b][h][i]
                kept = [j for j in range(N) if p[j] != 0]
                at = (b, h, i)
                assert float(found.recall[at]) == pytest.approx(sum(ref[j] for j in kept), abs=1e-12)
                assert float(found.kept[at]) == pytest.approx(len(kept) / (i + 1))
                gap = sum(abs(x - y) for x, y in zip(p, ref, strict=True)) / 2
                assert float(found.variation[at]) == pytest.approx(gap, abs=1e-12)
                divergence = sum(p[j] * math.log(p[j] / ref[j]) for j in kept)
                assert float(found.divergence[at]) == pytest.approx(divergence, abs=1e-12)
                values = V[b, h // 2].tolist()
                outputs = [[sum(w[j] * values[j][e] for j in range(N)) for e in range(D + 1)] for w in (p, ref)]
                error = math.dist(outputs[0], outputs[1]) / math.hypot(*outputs[1])
                assert float(found.output_error[at]) == pytest.approx(error, abs=1e-12)


def test_recall_is_the_ratio_of_the_sums_of_exponentials() -> None:
    """And a selection that keeps proportions diverges by -log recall, and varies by what it leaves out."""
    operator = BlockTopK(keep=1, size=3)
    found = fidelity(Q, K, V, operator)
    kept, all_of_it = (attention(Q, K, V, each).lse for each in (operator, "softmax"))
    assert kept is not None and all_of_it is not None
    assert torch.allclose(found.recall, (kept - all_of_it).exp(), atol=1e-12)
    assert float(found.recall.min()) < 0.8
    assert torch.allclose(found.divergence, -found.recall.log(), atol=1e-10)
    assert torch.allclose(found.variation, 1 - found.recall, atol=1e-12)


def test_the_same_operator_is_perfect() -> None:
    found = fidelity(Q, K, V, Window(size=N))
    assert all(bool((getattr(found, name) == 1).all()) for name in ("kept",))
    assert torch.allclose(found.recall, torch.ones_like(found.recall))
    for name in ("output_error", "divergence", "variation"):
        assert float(getattr(found, name).abs().max()) < 1e-12


def test_other_references() -> None:
    found = fidelity(Q, K, V, Window(size=2), against=Window(size=5))
    assert found.against == "window"
    assert torch.allclose(found.divergence, -found.recall.log(), atol=1e-10)
    assert float(fidelity(Q, K, V, Window(size=9), against=Window(size=5)).recall.min()) == pytest.approx(1.0)


def test_rows_that_keep_nothing_are_the_worst_there_is() -> None:
    scores = torch.zeros(1, 1, N, dtype=torch.float64)
    scores[..., :2] = 1.0
    found = fidelity(Q, K, V, ExpertChoice(scores=scores, keep=2))
    assert bool((found.recall[:, :, 2:] == 0).all()) and bool((found.variation[:, :, 2:] == 1).all())
    assert bool((found.output_error[:, :, 2:] == 1).all()) and float(found.divergence[:, :, 2:].min()) > 700


def test_what_underflows_in_the_reference_stays_finite() -> None:
    q = 40 * Q.float()
    found = fidelity(q, K.float(), V.float(), LinearAttention())
    assert all(bool(getattr(found, name).isfinite().all()) for name in MEASURES)
    assert float(found.divergence.max()) > 10


@pytest.mark.parametrize("cells", [B * N * 3, B * N * 16, 2**21])
def test_blocks_of_rows_make_no_difference(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fidelity(Q, K, V, BlockTopK(keep=1, size=3))
    monkeypatch.setattr(blockwise, "CELLS", cells)
    monkeypatch.setattr(blockwise, "LEAST_ROWS", 1)
    parts = fidelity(Q, K, V, BlockTopK(keep=1, size=3))
    for name in MEASURES:
        assert torch.allclose(getattr(parts, name), getattr(whole, name), atol=1e-12)


def test_padding_counts_nowhere() -> None:
    real = torch.ones(B, N, dtype=torch.bool)
    real[1, :6] = False
    found = fidelity(Q, K, V, Window(size=3), key_mask=real)
    alone = fidelity(Q[1:, :, 6:], K[1:, :, 6:], V[1:, :, 6:], Window(size=3))
    for name in MEASURES:
        both = getattr(found, name)
        assert bool(both[1, :, :6].isnan().all()) and torch.allclose(both[1:, :, 6:], getattr(alone, name), atol=1e-12)
        means = torch.cat([both[0], both[1, :, 6:]], dim=1).mean(1)
        assert torch.allclose(found.per_head()[name], means, atol=1e-12)
    assert "window against softmax: recall 0." in repr(found)


def test_what_can_not_be_compared() -> None:
    with pytest.raises(InterpError, match="either sign"):
        fidelity(Q, K, V, "window", against=Retention())
    with pytest.raises(InterpError, match="whatever a mask hides"):
        fidelity(Q, K, V, InLine(), mask=torch.ones(1, 1, N, N, dtype=torch.bool))
    with pytest.raises(InterpError, match="E201"):
        fidelity(Q, K, V, "no-such-operator")


def test_a_bias_of_the_model_is_part_of_what_is_compared() -> None:
    q, k, v = (torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    bias = torch.zeros(1, 1, 6, 6)
    bias[..., 0] = 3.0
    found = fidelity(q, k, v, Window(size=2), bias=bias)
    scores = (q @ k.transpose(2, 3) * 4**-0.5 + bias).masked_fill(~torch.ones(6, 6).tril().bool(), -torch.inf)
    kept = torch.ones(6, 6).tril().bool() & torch.ones(6, 6).triu(-1).bool()
    assert torch.allclose(found.recall, (scores.softmax(-1) * kept).sum(-1), atol=1e-6)
    assert not torch.allclose(found.recall, fidelity(q, k, v, Window(size=2)).recall, atol=1e-2)
