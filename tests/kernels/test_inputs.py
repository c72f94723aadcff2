"""What `attention` refuses, and that it says what, where and how to mend it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.kernels.attention import attention
from interp.kernels.errors import InterpError, InterpErrors
from interp.kernels.inputs import check_inputs
from interp.kernels.problem import Problem
from interp.kernels.statistics.entropy import Entropy
from interp.kernels.statistics.received import Received

Q, K, V = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)


def checked(*args: Any, **options: Any) -> None:
    """The checks that `attention` begins with, without the annotations that the tests hold shapes against."""
    check_inputs(*args[:3], **{"key_mask": None, "documents": None, "mask": None, "bias": None, **options})


def refused(code: str, *args: Any, **options: Any) -> str:
    with pytest.raises(InterpError) as caught:
        (checked if code in ("E206", "E207") else attention)(*args, **options)
    assert caught.value.code == code
    return str(caught.value)


def test_all_that_is_wrong_with_shapes_is_said_at_once() -> None:
    with pytest.raises(InterpErrors) as caught:
        checked(Q[..., :5], K[:1, :, :4], V, key_mask=torch.ones(2, 9, dtype=torch.bool), documents=torch.rand(2, 6))
    said = str(caught.value)
    for what in ("batch size", "heads or length", "d_head", "key_mask must be", "documents must be"):
        assert what in said
    assert "q: [2, 4, 6, 5]" in said


@pytest.mark.parametrize(
    ("code", "said", "args", "options"),
    [
        ("E206", "q must be", (Q[0], K, V), {}),
        ("E206", "4 query heads can't share 3", (Q, torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)), {}),
        ("E206", "one floating dtype", (Q.double(), K, V), {}),
        ("E206", "mask must be bool", (Q, K, V), {"mask": torch.ones(1, 1, 6, 6)}),
        ("E206", "bias must be", (Q, K, V), {"bias": torch.zeros(2, 3, 6, 6)}),
        ("E207", "k holds 1 numbers that are not finite", (Q, K.index_put((torch.tensor(1),) * 4, torch.tensor(torch.nan)), V), {}),
        ("E205", "comes back", (Q, K, V), {"documents": torch.tensor([[0, 0, 1, 1, 0, 0]] * 2)}),
        ("E205", "query 0 of prompt 0 sees no key", (Q, K, V), {"mask": torch.ones(6, 6, dtype=torch.bool).triu(1)[None, None]}),
        ("E205", "no scores that a bias", (Q, K, V, "retention"), {"bias": torch.zeros(1, 1, 6, 6)}),
        ("E205", "3 variants for 4 heads", (Q, K, V, ["softmax"] * 3), {}),
        ("E205", "single text", (Q, K, V), {"statistics": "entropy"}),
        ("E205", "two statistics", (Q, K, V), {"statistics": ["received", Received()]}),
        ("E201", "entropy", (Q, K, V), {"statistics": ["entropie"]}),
        ("E201", "softmax", (Q, K, V, "softmaxx"), {}),
        ("E205", "needs parameters", (Q, K, V, "sink-logit"), {}),
        ("E201", "cpp", (Q, K, V), {"backend": "ccp"}),
        ("E205", "backend 'chunked' can't run this", (Q, K, V), {"backend": "chunked"}),
        ("E205", "no gradients", (Q.clone().requires_grad_(), K, V), {"backend": "blockwise"}),
        ("E203", "heads=", (Q, K, V), {"heads": [4]}),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_reason(code: str, said: str, args: tuple[Any, ...], options: Any) -> None:
    assert said in refused(code, *args, **options)


def test_heads_by_choice_and_operators_by_head_are_those_of_the_whole() -> None:
    whole = attention(Q, K, V, statistics=["entropy"])
    part = attention(Q, K, V, statistics=["entropy"], heads=[3, 0])
    assert torch.equal(part.output, whole.output[:, [3, 0]]) and torch.equal(
        part["entropy"], whole["entropy"][:, [3, 0]]
    )
    mixed = attention(Q, K, V, ["softmax", "full", "softmax", "full"])
    full = attention(Q, K, V, "full")
    assert torch.allclose(mixed.output[:, ::2], whole.output[:, ::2]) and torch.allclose(
        mixed.output[:, 1::2], full.output[:, 1::2]
    )
    assert [choice.heads for choice in mixed.choices] == [(0, 2), (1, 3)]


@pytest.mark.parametrize("variant", ["sigmoid", "relu", "clipped-softmax", "retention"])
def test_queries_that_a_mask_leaves_no_key_are_refused_by_operators_without_log_sums(variant: str) -> None:
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    mask[..., 2, :3] = False  # causality hides the others
    assert "query 2 of prompt 0 sees no key" in refused("E205", Q, K, V, variant, mask=mask)


def test_a_backend_that_gives_no_numbers_is_caught() -> None:
    problem = Problem(Q, K, V, 1.0, head_index=tuple(range(4)), n_heads=4)
    value = torch.zeros(2, 4, 6)
    Entropy().verify(value, problem)
    value[1, 2, 3] = float("nan")
    with pytest.raises(InterpError, match="E503"):
        Entropy().verify(value, problem)
    padded = Problem(Q, K, V, 1.0, torch.arange(6).expand(2, 6) != 3, head_index=tuple(range(4)), n_heads=4)
    Entropy().verify(attention(Q, K, V, statistics=["entropy"], key_mask=padded.key_mask)["entropy"], padded)
