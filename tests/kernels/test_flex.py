"""FlexAttention's callbacks against the operators' own rules, one compiled run, and what is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.backends.flex import COMPILERS, Flex, mask_of, score_of
from interp.kernels.backends.primitives import Request, Rows
from interp.kernels.problem import Problem
from interp.kernels.statistics.entropy import Entropy
from interp.kernels.variants.alibi import Alibi
from interp.kernels.variants.base import Variant
from interp.kernels.variants.sigmoid import Sigmoid
from interp.kernels.variants.sinks import OffByOne
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.streaming import Streaming

B, H, KV, N, D = 2, 4, 2, 150, 16


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(dtype: torch.dtype = torch.float32) -> Problem:
    q, k, v = (tensor(B, heads, N, D, seed=seed).to(dtype) for seed, heads in enumerate((H, KV, KV)))
    return Problem(q, k, v, D**-0.5, head_index=tuple(range(H)), n_heads=H)


VARIANTS = [Softmax(), Softmax(softcap=2.0), Streaming(sink_tokens=3, recent=20), Alibi(), Alibi(softcap=2.0)]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_callbacks_say_what_the_operator_says(variant: Variant) -> None:
    """Both callbacks on every cell, followed by a plain softmax."""
    posed = problem()
    request = variant.request(posed)
    assert isinstance(request, Request)
    rows = Rows(*(bound.expand(B, H, N) for bound in vars(request.rows).values()))
    b, h, i, j = torch.meshgrid(*(torch.arange(size) for size in (B, H, N, N)), indexing="ij")
    scores = request.q @ request.k.repeat_interleave(2, 1).transpose(2, 3) * request.scale
    score = score_of(request)
    scores = scores if score is None else score(scores, b, h, i, j)
    pattern = scores.masked_fill(~mask_of(rows)(b, h, i, j), float("-inf")).softmax(-1)
    torch.testing.assert_close(pattern, variant.weights(posed.view()).values, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason=f"no C++ compiler: {', '.join(COMPILERS)}")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
def test_compiled_output_is_that_of_eager() -> None:
    posed = problem()
    assert Flex().refuses(posed, VARIANTS[2], {}) is None
    found = Flex().run(posed, VARIANTS[2], {}).output
    wanted = attention(posed.q, posed.k, posed.v, VARIANTS[2], backend="eager").output
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)


def test_what_it_does_not_give_is_refused() -> None:
    posed, flex = problem(), Flex()
    assert "statistics" in (flex.refuses(posed, Softmax(), {"entropy": Entropy()}) or "")
    assert "sigmoid" in (flex.refuses(posed, Sigmoid(), {}) or "")
    assert "log sums" in (flex.refuses(posed, OffByOne(), {}) or "")
    assert "float32" in (flex.refuses(problem(torch.float64), Softmax(), {}) or "")


def test_no_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "compiler" in (Flex().refuses(problem(), Softmax(), {}) or "")
