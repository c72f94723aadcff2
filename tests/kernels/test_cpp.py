"""The native kernel against the whole pattern in float64, written from the definitions of the request."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.kernels.backends.cpp import build, kernel
from interp.kernels.backends.primitives import Primitives, Request, Rows
from interp.kernels.errors import InterpError

if build.compiler() is None and not build.built():
    pytest.skip("no C++ compiler: install g++, or name one in CXX", allow_module_level=True)

WISHES = ("entropy", "largest", "squares", "functionals", "band", "columns")
SIZES = [(1, 1), (17, 17), (130, 130), (257, 257), (1, 130), (33, 257), (100, 70)]
ROOT = Path(__file__).resolve().parents[2]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integers(low: int, high: int, *shape: int, seed: int) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def causal(queries: int, keys: int, window: int | None = None) -> Rows:
    high = (torch.arange(queries, dtype=torch.int32) + 1 + keys - queries)[None, None]
    low = torch.zeros_like(high) if window is None else high - window
    return Rows(low, high, torch.zeros_like(high), torch.zeros_like(high))


def ragged(queries: int, keys: int, batch: int = 2, head: int = 4) -> Rows:
    """Any interval and prefix: overlapping, apart, empty, reaching past the ends."""
    ends = [integers(-3, keys + 4, batch, head, queries, seed=seed) for seed in range(3)]
    first = integers(0, 4, batch, 1, queries, seed=3)
    return Rows(ends[0], ends[1], first, first + integers(-1, 5, 1, 1, queries, seed=4))


def asked(
    queries: int,
    keys: int,
    rows: Rows,
    *,
    d_head: int = 20,
    d_value: int = 20,
    dtype: torch.dtype = torch.float32,
    wishes: tuple[str, ...] = WISHES,
    size: float = 1.0,
    **more: object,
) -> Request:
    """Two prompts, four heads on two key/value heads."""
    q, k, v = (
        normal(2, heads, length, width, seed=seed).to(dtype)
        for seed, (heads, length, width) in enumerate([(4, queries, d_head), (2, keys, d_head), (2, keys, d_value)])
    )
    request = Request(size * q, k, v, d_head**-0.5, rows, **more)  # type: ignore[arg-type]
    values = {
        "functionals": normal(1, 4, keys, 3, seed=5).float(),
        "band": normal(2, 40, seed=6).float(),
        "columns": normal(2, 1, 2, queries, seed=7).float(),
    }
    return replace(request, **{name: values.get(name, True) for name in wishes})  # type: ignore[arg-type]


def log_weights(request: Request) -> Tensor:
    """`log f(s)` [batch, head, query_pos, key_pos], minus infinity where a key is not seen."""
    q, k = request.q.double(), request.k.double()
    (heads, queries), keys = q.shape[1:3], k.shape[2]
    i, j = torch.arange(queries)[:, None], torch.arange(keys)
    s = request.scale * q @ k.repeat_interleave(heads // k.shape[1], 1).mT
    s = s if request.softcap is None else request.softcap * torch.tanh(s / request.softcap)
    if request.slopes is not None:
        s = s - request.slopes.double()[:, None, None] * (i + keys - queries - j).abs()
    s = s if request.shift is None else s + request.shift.double()[..., None]
    low, high, first, stop = (getattr(request.rows, x.name)[..., None] for x in fields(Rows))
    seen = (low <= j) & (j < high) | (first <= j) & (j < stop)
    return (s if request.rule == "softmax" else torch.nn.functional.logsigmoid(s)).masked_fill(~seen, -torch.inf)


def oracle(request: Request) -> tuple[Primitives, Tensor]:
    """Everything from the whole pattern, and the pattern."""
    (batch, heads, queries, _), keys = request.q.shape, request.k.shape[2]
    log_f, v = log_weights(request), request.v.double().repeat_interleave(heads // request.v.shape[1], 1)
    lse = log_f.logsumexp(-1)
    p = torch.where(log_f.isfinite(), (log_f - lse[..., None]).exp(), 0.0)
    answer = Primitives((p if request.rule == "softmax" else log_f.exp()) @ v, lse)
    answer.entropy = -torch.special.xlogy(p, p).sum(-1)
    answer.largest, best = p.max(-1)
    answer.argmax = torch.where(lse.isfinite(), best, -1)
    answer.squares = (p**2).sum(-1)
    if request.functionals is not None:
        answer.functionals = p @ request.functionals.double()
    if request.band is not None:
        distance = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
        inside = (distance >= 0) & (distance < request.band.shape[1])
        weights = request.band.double()[:, distance.clamp(0, request.band.shape[1] - 1)] * inside
        answer.band = torch.einsum("bhij,wij->bhiw", p, weights)
    if request.columns is not None:
        weights = request.columns.double().expand(batch, heads, -1, -1)
        answer.columns = torch.einsum("bhwi,bhij->bhwj", weights, p)
    return answer, p


def assert_close(got: Tensor, wanted: Tensor, tolerance: float, relative: float = 0.0) -> None:
    """Within `tolerance` of the largest number where that is above 1, and minus infinity at the same places."""
    there = wanted.isfinite()
    assert torch.equal(got == -torch.inf, ~there)
    size = max([1.0, *wanted[there].abs().flatten().tolist()])
    torch.testing.assert_close(got[there].double(), wanted[there], atol=tolerance * size, rtol=relative)


def assert_equal(request: Request, tolerance: float = 1e-5, rounding: float = 0.0) -> None:
    """Holds every number against the oracle; `rounding` is half a unit in the last place of the output's dtype."""
    got, (wanted, pattern) = kernel.run(request), oracle(request)
    assert_close(got.lse, wanted.lse, tolerance)
    if request.output:
        assert got.output.dtype == request.v.dtype
        assert_close(got.output, wanted.output, tolerance, rounding)
    for name in WISHES:
        if getattr(request, name) is None or getattr(request, name) is False:
            assert getattr(got, name) is None
        else:
            assert getattr(got, name).dtype == torch.float32
            assert_close(getattr(got, name), getattr(wanted, name), tolerance)
    if request.largest:
        assert torch.equal(got.argmax == -1, wanted.argmax == -1)
        there = pattern.gather(-1, got.argmax.clamp(min=0)[..., None])[..., 0]  # a rounded tie may fall either way
        assert_close(got.largest, there * (got.argmax >= 0), tolerance)


@pytest.mark.parametrize("rule", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_everything_at_odd_sizes(queries: int, keys: int, rule: str) -> None:
    shift = -normal(2, 1, queries, seed=8).abs().float()
    for rows in (causal(queries, keys), causal(queries, keys, window=9), ragged(queries, keys)):
        assert_equal(asked(queries, keys, rows, rule=rule))
        assert_equal(asked(queries, keys, rows, rule=rule, softcap=1.5, slopes=torch.rand(4), shift=shift))


@pytest.mark.parametrize("wish", [(), *((name,) for name in WISHES)])
@pytest.mark.parametrize("output", [True, False])
def test_each_number_alone(wish: tuple[str, ...], output: bool) -> None:
    assert_equal(asked(70, 190, ragged(70, 190), wishes=wish, output=output))


@pytest.mark.parametrize("change", [{"softcap": 20.0}, {"softcap": 0.3}, {"slopes": torch.rand(4)}, {"shift": True}])
@pytest.mark.parametrize("rule", ["softmax", "sigmoid"])
def test_each_change_of_the_scores_alone(change: dict[str, object], rule: str) -> None:
    if "shift" in change:
        change = {"shift": normal(2, 4, 100, seed=9).float()}
    assert_equal(asked(100, 130, causal(100, 130), rule=rule, size=3.0, **change))


@pytest.mark.parametrize(("d_head", "d_value"), [(1, 1), (7, 33), (64, 16), (80, 128), (256, 3)])
def test_any_width_of_heads(d_head: int, d_value: int) -> None:
    assert_equal(asked(70, 150, causal(70, 150), d_head=d_head, d_value=d_value))


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_any_grouping_of_heads(kv_heads: int) -> None:
    request = asked(50, 50, causal(50, 50))
    k, v = (normal(2, kv_heads, 50, 20, seed=seed).float() for seed in (1, 2))
    assert_equal(replace(request, k=k, v=v))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_at_the_output_alone(dtype: torch.dtype, rounding: float) -> None:
    for rows in (causal(130, 130), ragged(130, 130)):
        assert_equal(asked(130, 130, rows, dtype=dtype), rounding=rounding)


def test_every_float16_is_read_as_it_is() -> None:
    v = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).reshape(1024, 64, 1, 1)
    zero = torch.zeros(1, 1, 1, dtype=torch.int32)
    only = Request(torch.zeros_like(v), torch.zeros_like(v), v, 1.0, Rows(zero, zero + 1, zero, zero))
    torch.testing.assert_close(kernel.run(only).output, v, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("rule", ["softmax", "sigmoid"])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_scores_stay_finite(rule: str, sign: int) -> None:
    """Scores up to 300: float32 holds them to 3e-5, and so the pattern."""
    request = asked(130, 130, causal(130, 130), size=40.0, rule=rule)
    request = replace(request, q=sign * request.q.abs(), k=request.k.abs())
    scores = request.scale * request.q @ request.k.repeat_interleave(2, 1).mT
    assert 200 < float(scores.abs().max()) < 400
    assert_equal(request, tolerance=1e-4)


@pytest.mark.parametrize("rule", ["softmax", "sigmoid"])
def test_weights_of_every_size_are_right_in_their_own_digits(rule: str) -> None:
    """The weight of a key of score x beside one of score 0, or alone under the sigmoid, down to 1e-35."""
    x = torch.linspace(-80, 80 if rule == "sigmoid" else 0, 4001)
    keys = torch.tensor([0.0, 1.0])[None, None, :, None]
    one = torch.ones(1, 1, 4001, dtype=torch.int32)
    rows = Rows((rule == "sigmoid") * one, 2 * one, 0 * one, 0 * one)
    got = kernel.run(Request(x[None, None, :, None], keys, keys, 1.0, rows, rule=rule)).output.flatten()
    assert bool(((got / torch.sigmoid(x.double()) - 1).abs() < 3e-7 + 2e-7 * x.abs()).all())


def test_score_of_twenty_thousand_is_one_hot() -> None:
    request = asked(40, 40, causal(40, 40), size=5000.0)
    got = kernel.run(request)
    assert all(bool(getattr(got, name).isfinite().all()) for name in ("output", "lse", *WISHES))
    assert float(got.largest.mean()) > 0.99


def test_rows_without_keys_hold_nothing() -> None:
    nothing = torch.zeros(1, 1, 70, dtype=torch.int32)
    got = kernel.run(asked(70, 30, Rows(nothing + 9, nothing + 5, nothing, nothing)))
    assert bool((got.lse == -torch.inf).all()) and bool((got.argmax == -1).all())
    assert not any(bool(getattr(got, name).any()) for name in ("output", *WISHES))
    none = kernel.run(asked(70, 0, Rows(nothing, nothing, nothing, nothing)))
    assert bool((none.lse == -torch.inf).all()) and not none.output.any()


def test_first_of_equal_keys_is_the_largest() -> None:
    request = asked(150, 400, causal(150, 400), wishes=("largest",))
    equal = kernel.run(replace(request, k=torch.ones_like(request.k)))
    assert not equal.argmax.any()
    torch.testing.assert_close(equal.largest, (1 / torch.arange(251, 401)).expand(2, 4, -1))


def test_keys_that_no_query_of_a_block_sees_are_never_read() -> None:
    request = asked(512, 512, causal(512, 512, window=8), d_head=16, d_value=16)
    request.k[:, :, :300] = request.v[:, :, :300] = torch.nan
    got = kernel.run(replace(request, functionals=None))
    assert all(bool(getattr(got, name)[:, :, 384:].isfinite().all()) for name in ("output", "lse", "entropy", "band"))


def test_nan_is_not_hidden() -> None:
    request = asked(40, 40, causal(40, 40))
    request.q[0, 1, 7, 2] = torch.nan
    got = kernel.run(request)
    for name in ("output", "lse", "entropy", "squares", "largest"):
        bad = getattr(got, name).isnan().reshape(2, 4, 40, -1).any(-1)
        assert bool(bad[0, 1, 7]) and int(bad.sum()) == 1, name
    assert bool(got.columns[0, 1, :, 0].isnan().all())


def test_columns_add_up_to_rows() -> None:
    request = asked(257, 257, causal(257, 257), size=20.0, columns=torch.ones(1, 1, 1, 257), wishes=())
    torch.testing.assert_close(kernel.run(request).columns.sum(-1), torch.full((2, 4, 1), 257.0), atol=1e-3, rtol=0)


def same(a: Primitives, b: Primitives) -> bool:
    pairs = [(getattr(a, x.name), getattr(b, x.name)) for x in fields(Primitives) if x.name != "notes"]
    return all(torch.equal(x, y) for x, y in pairs if x is not None)


def test_neither_threads_nor_repetition_nor_layout_change_a_bit() -> None:
    request = asked(257, 257, ragged(257, 257))
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(kernel.run(request))
    finally:
        torch.set_num_threads(before)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (request.q, request.k, request.v))
    answers.append(kernel.run(replace(request, q=q, k=k.mT.contiguous().mT, v=v)))
    assert all(same(answers[0], x) for x in answers[1:])


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_other_instruction_sets(capability: str) -> None:
    if capability == "avx2" and "-mavx2" not in build.flags():
        pytest.skip("this machine has no AVX2")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)}
    chosen = "130-130 or half_precision or read_as_it_is or other_flags"
    command = [sys.executable, "-m", "pytest", "-q", "-k", chosen, "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout


def test_capability_of_torch_gives_other_flags() -> None:
    capability = os.environ.get("ATEN_CPU_CAPABILITY", "")
    assert capability not in ("avx2", "default") or not any("avx512" in flag for flag in build.flags())
    assert capability != "default" or not any("avx2" in flag for flag in build.flags())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"q": torch.zeros(2, 4, 5, 20, dtype=torch.float64)}, "not float64, float32, float32"),
        ({"q": torch.zeros(2, 4, 5, 20, requires_grad=True)}, "no gradients"),
        ({"q": torch.zeros(2, 4, 5, 20, device="meta")}, "not on the CPU"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(change: dict[str, Tensor], reason: str) -> None:
    request = asked(5, 5, causal(5, 5))
    assert kernel.supports(request) is None
    assert reason in str(kernel.supports(replace(request, **change)))
    with pytest.raises(InterpError, match=reason) as caught:
        kernel.run(replace(request, **change))
    assert caught.value.code == "E205"
