"""Operators that make weights of scores otherwise than by a softmax, against loops and against what they limit to."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.backends.eager import attention_pattern
from interp.kernels.errors import InterpError
from interp.kernels.variants.base import Variant
from interp.kernels.variants.clipped import Clipped
from interp.kernels.variants.relu import Relu
from interp.kernels.variants.sigmoid import Sigmoid
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.softplus import Softplus, SoftplusReweighted
from interp.kernels.variants.standardised import Standardised
from tests.kernels.rowwise_oracle import (
    Case,
    D,
    H,
    Row,
    asks_for_itself,
    close,
    decodes,
    has_gradients,
    ignores_padding,
    is_that_of_loops,
    is_what_its_flags_say,
    is_wide,
    keeps_documents_apart,
    moved_by_later_tokens,
    positions,
    problem_of,
    softmax_row,
    tensors,
    weights,
)


def past(i: int, j: int, h: int, n: int) -> bool:
    return j <= i


def all_keys(i: int, j: int, h: int, n: int) -> bool:
    return True


def fixed(variant: Variant) -> Callable[[Tensor], Variant]:
    return lambda where: variant


def by_count(rule: Callable[[list[float], int], list[float]]) -> Row:
    """A row from its scores and how many there are."""
    return lambda scores, keys, i, h, n: rule(scores, len(scores))


def standardised(scores: list[float], n: int) -> list[float]:
    mean = sum(scores) / n
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / n + 1e-8)
    return [1.5 * (score - mean) / deviation + 0.25 for score in scores]


def softplus(scores: list[float], n: int, scale: float = math.log(D)) -> list[float]:
    raised = [math.log1p(math.exp(scale * math.log(n) * score)) for score in scores]
    return [each / sum(raised) for each in raised]


def reweighted(scores: list[float], n: int) -> list[float]:
    plain = softplus(scores, n)
    powers = [max(n * weight - 0.9, 0) ** 3 for weight in plain]
    return [power / sum(powers) for power in powers]


def clipped(gamma: Callable[[int, int], float], eta: float) -> Row:
    def row(scores: list[float], keys: list[int], i: int, h: int, n: int) -> list[float]:
        low = gamma(len(keys), n)
        return [min(max((eta - low) * p + low, 0.0), 1.0) for p in softmax_row(scores, keys, i, h, n)]

    return row


CASES = {
    "sigmoid": Case(
        fixed(Sigmoid()), past, row=by_count(lambda s, n: [1 / (1 + math.exp(-each + math.log(n))) for each in s])
    ),
    "sigmoid, bias": Case(
        fixed(Sigmoid(causal=False, bias=-2.0)),
        all_keys,
        row=by_count(lambda s, n: [1 / (1 + math.exp(-each + 2)) for each in s]),
    ),
    "sigmoid, softcap": Case(
        fixed(Sigmoid(softcap=2.0)),
        past,
        lambda s, i, j, h, n: 2 * math.tanh(s / 2),
        by_count(lambda s, n: [1 / (1 + math.exp(-each + math.log(n))) for each in s]),
    ),
    "relu": Case(fixed(Relu()), past, row=by_count(lambda s, n: [max(each, 0) for each in s])),
    "relu, divided": Case(
        fixed(Relu(causal=False, divide=True)), all_keys, row=by_count(lambda s, n: [max(each, 0) / n for each in s])
    ),
    "softplus": Case(fixed(Softplus()), past, row=by_count(softplus)),
    "softplus, scale": Case(
        fixed(Softplus(causal=False, length_scale=0.5)), all_keys, row=by_count(lambda s, n: softplus(s, n, 0.5))
    ),
    "softplus, re-weighted": Case(fixed(SoftplusReweighted(power=3.0, offset=0.9)), past, row=by_count(reweighted)),
    "clipped": Case(fixed(Clipped(gamma=-0.1, eta=1.1)), past, row=clipped(lambda seen, n: -0.1, 1.1)),
    "clipped, default": Case(fixed(Clipped()), past, row=clipped(lambda seen, n: -0.03, 1.0)),
    "clipped, by keys": Case(fixed(Clipped(alpha=0.5)), past, row=clipped(lambda seen, n: -0.5 / seen, 1.0)),
    "clipped, by length": Case(
        fixed(Clipped(causal=False, alpha=0.5, length=20)), all_keys, row=clipped(lambda seen, n: -0.5 / 20, 1.0)
    ),
    "standardised": Case(fixed(Standardised(gain=1.5, shift=0.25)), past, row=by_count(standardised)),
    "standardised, both sides": Case(
        fixed(Standardised(causal=False, gain=1.5, shift=0.25)), all_keys, row=by_count(standardised)
    ),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.mark.parametrize("size", range(3))
@each_case
def test_weights_and_output_are_those_of_loops(case: Case, size: int) -> None:
    is_that_of_loops(case, case.sizes[size])


@each_case
def test_last_queries_alone_give_what_they_give_among_all(case: Case) -> None:
    decodes(case)


@each_case
def test_padding_changes_nothing(case: Case) -> None:
    ignores_padding(case)


@each_case
def test_packed_documents_give_what_they_give_alone(case: Case) -> None:
    keeps_documents_apart(case, (7, 17))


@each_case
def test_later_tokens_move_what_they_may_and_nothing_else(case: Case) -> None:
    variant = case.make(positions(17))
    assert moved_by_later_tokens(variant, 17) == bool(variant.looks_ahead) == (not variant.causal)


@each_case
def test_flags_say_what_the_weights_are(case: Case) -> None:
    is_what_its_flags_say(case)


@each_case
def test_bf16_is_computed_wide(case: Case) -> None:
    is_wide(case)


@each_case
def test_lse_is_there_where_it_is_a_softmax_underneath(case: Case) -> None:
    q, k, v = tensors(7)
    variant = case.make(positions(7))
    found = attention(q, k, v, variant).lse
    if not isinstance(variant, Clipped):
        assert found is None
        return
    assert found is not None
    close(found, attention(q, k, v, Softmax(causal=variant.causal)).lse)


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid, bias", "sigmoid, softcap"])
def test_what_is_asked_of_fused_kernels_is_the_operator(name: str) -> None:
    asks_for_itself(CASES[name])


@pytest.mark.parametrize("name", ["relu", "softplus", "softplus, re-weighted", "clipped", "standardised"])
def test_what_fused_kernels_cannot_do_is_refused_with_a_reason(name: str) -> None:
    reason = CASES[name].make(positions(7)).request(problem_of(*tensors(7)))
    assert isinstance(reason, str) and len(reason) > 20


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences(name: str) -> None:
    has_gradients(CASES[name].make(positions(4, batch=1)))


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "softplus, re-weighted", "standardised", "clipped", "relu"])
def test_gradients_are_finite_behind_padding(name: str) -> None:
    q, k, v = (x.float().requires_grad_() for x in tensors(7))
    mask = (torch.arange(7) > 2).expand(2, -1)
    variant = CASES[name].make(positions(7))
    attention(q, k, v, variant, key_mask=mask, backend="eager").output.square().sum().backward()
    for x in (q, k, v):
        assert bool(x.grad.isfinite().all()) and not bool(x.grad[:, :, :3].any()) and bool(x.grad[:, :, 3:].any())


def test_sigmoid_and_divided_relu_are_the_patterns_of_models_that_have_them() -> None:
    q, k, v = tensors(9)
    mask = torch.zeros(9, 9, dtype=torch.float64).masked_fill(
        torch.ones(9, 9).triu(1).bool(), torch.finfo(torch.float64).min
    )
    scores = (q @ k.repeat_interleave(H // 2, 1).transpose(2, 3)) * D**-0.5
    for variant, normaliser in ((Sigmoid(), "sigmoid"), (Relu(divide=True), "relu")):
        close(weights(variant, q, k, v), attention_pattern(scores + mask, normaliser=normaliser))


def test_clipping_of_nothing_is_a_softmax_and_zeros_are_where_the_formula_says() -> None:
    q, k, v = tensors(17)
    dense = weights(Softmax(), q, k, v)
    close(weights(Clipped(gamma=0.0), q, k, v), dense)
    found = weights(Clipped(gamma=-0.1, eta=1.05), q, k, v)
    assert torch.equal(found == 0, dense <= 0.1 / 1.15)
    assert bool((found.sum(-1) > 0).all()) and bool((found == 1).any())


def test_rows_far_below_zero_still_sum_to_one() -> None:
    q, k, v = (x.float() for x in tensors(9))
    k[:, :, :, 0] = 40.0
    q[:, :, :, 0] = -40.0
    for variant in (Softplus(), SoftplusReweighted()):
        found = weights(variant, q, k, v)
        close(found.sum(-1), torch.ones(2, H, 9), atol=1e-5)
        assert bool(found.isfinite().all())


def test_rows_in_which_no_key_stands_out_stay() -> None:
    _, k, v = tensors(9)
    found = weights(SoftplusReweighted(), torch.zeros(2, H, 9, D, dtype=torch.float64), k, v)
    close(found, torch.ones(9, 9, dtype=torch.float64).tril().div(torch.arange(1, 10)[:, None]).expand(2, H, 9, 9))


def test_sharpening_keeps_what_is_above_the_mean_alone() -> None:
    q, k, v = tensors(17)
    plain, sharp = weights(Softplus(), q, k, v), weights(SoftplusReweighted(power=1.0), q, k, v)
    count = torch.arange(1, 18)[:, None]
    assert torch.equal(sharp[:, :, 1:] > 0, (plain * count)[:, :, 1:] > 1)
    once = (plain * count - 1).clamp(min=0)[:, :, 1:]
    close(sharp[:, :, 1:], once / once.sum(-1, keepdim=True))
    harder = weights(SoftplusReweighted(power=15.0), q, k, v)
    assert bool((harder.amax(-1) >= sharp.amax(-1) - 1e-12).all())


def test_standardised_rows_have_mean_zero_and_variance_one() -> None:
    q, k, v = tensors(17)
    found = weights(Standardised(causal=False), q, k, v)
    close(found.mean(-1), torch.zeros(2, H, 17, dtype=torch.float64))
    close(found.square().mean(-1), torch.ones(2, H, 17, dtype=torch.float64), atol=1e-6)
    equal = weights(Standardised(), torch.zeros_like(q), k, v)
    assert not bool(equal.any())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Clipped(gamma=0.1), "gamma=0.1"),
        (lambda: Clipped(eta=0.9), "eta=0.9"),
        (lambda: Clipped(alpha=-1.0), "alpha=-1.0"),
        (lambda: Clipped(length=0), "length=0"),
        (lambda: Clipped(gamma=-0.1, alpha=1.0), "gamma and alpha both"),
        (lambda: SoftplusReweighted(power=0.5), "power=0.5"),
        (lambda: SoftplusReweighted(offset=-1.0), "offset=-1.0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(make: Callable[[], Variant], words: str) -> None:
    with pytest.raises(InterpError, match=words) as caught:
        make()
    assert caught.value.code == "E205"


def test_a_bias_that_is_no_word_is_refused() -> None:
    record = Sigmoid()
    object.__setattr__(record, "bias", "log n")  # past the type checks that the tests run under
    with pytest.raises(InterpError, match="no option 'log n'") as caught:
        record.__post_init__()
    assert caught.value.code == "E201"
