"""Triton kernels against attention written out in float64: on the GPU where there is one, else by the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from interp.kernels.backends.primitives import Primitives, Request, Rows
from interp.kernels.backends.triton.kernel import run, supports
from interp.kernels.backends.triton.launch import unusable
from interp.kernels.backends.triton.problem import prepare
from interp.kernels.errors import InterpError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(unusable(DEVICE) is not None, reason=str(unusable(DEVICE)))

STATISTICS = ("entropy", "largest", "squares", "functionals", "band", "columns")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def ends(*shape: int, below: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, below + 1, shape, generator=generator, dtype=torch.int32).to(DEVICE)


def causal(queries: int, keys: int) -> Rows:
    high = torch.arange(keys - queries + 1, keys + 1, dtype=torch.int32, device=DEVICE).reshape(1, 1, -1)
    none = torch.zeros_like(high)
    return Rows(none, high.clamp(min=0), none, none)


def scattered(batch: int, head: int, queries: int, keys: int) -> Rows:
    """Any intervals and prefixes, empty and overlapping ones among them; every fifth row sees nothing."""
    low, high, first, stop = (ends(batch, head, queries, below=keys, seed=seed) for seed in range(4))
    high[..., ::5], stop[..., ::5] = 0, 0
    return Rows(low, high, first // 2, stop // 2)


def ask(
    queries: int = 70,
    keys: int | None = None,
    *,
    d: int = 32,
    d_value: int | None = None,
    batch: int = 1,
    heads: int = 2,
    kv_heads: int | None = None,
    rows: Rows | None = None,
    **changes: object,
) -> Request:
    """A request for everything, but for the changes."""
    keys = queries if keys is None else keys
    everything = {
        "entropy": True,
        "largest": True,
        "squares": True,
        "functionals": torch.stack([torch.arange(keys).float(), (torch.arange(keys) < 4).float()], -1)[None, None],
        "band": torch.stack([torch.eye(24)[1], torch.linspace(1, 0.1, 24)]),
        "columns": torch.stack([torch.ones(queries), torch.linspace(-1, 2, queries)])[None, None],
    }
    everything = {name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in everything.items()}
    return Request(
        q=draw(batch, heads, queries, d),
        k=draw(batch, kv_heads or heads // 2, keys, d, seed=1),
        v=draw(batch, kv_heads or heads // 2, keys, d_value or d, seed=2),
        rows=rows or causal(queries, keys),
        **{"scale": d**-0.5, **everything, **changes},
    )


def scores(request: Request) -> Tensor:
    """`log f(s)` in float64, -inf where a row does not see a key."""
    q, k = request.q.double(), request.k.double()
    s = request.scale * q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(2, 3)
    i, j = torch.arange(q.shape[2], device=DEVICE)[:, None], torch.arange(k.shape[2], device=DEVICE)
    if request.softcap is not None:
        s = request.softcap * torch.tanh(s / request.softcap)
    if request.slopes is not None:
        s = s - request.slopes.double()[:, None, None] * (i + k.shape[2] - q.shape[2] - j).abs()
    if request.shift is not None:
        s = s + request.shift.double()[..., None]
    if request.rule == "sigmoid":
        s = torch.nn.functional.logsigmoid(s)
    low, high, first, stop = (getattr(request.rows, end.name)[..., None] for end in fields(Rows))
    return s.masked_fill(~((j >= low) & (j < high) | (j >= first) & (j < stop)), -torch.inf)


def dense(request: Request, hidden: Tensor | None = None) -> Primitives:
    """The answer by its definition, in float64; `hidden` are further cells that nobody sees."""
    s = scores(request)
    s = s if hidden is None else s.masked_fill(hidden, -torch.inf)
    p = s.softmax(-1).nan_to_num(0.0)
    v = request.v.double().repeat_interleave(s.shape[1] // request.v.shape[1], 1)
    distance = torch.arange(s.shape[2], device=DEVICE)[:, None] + s.shape[3] - s.shape[2]
    distance = distance - torch.arange(s.shape[3], device=DEVICE)
    answer = Primitives(output=(p if request.rule == "softmax" else s.exp()) @ v, lse=s.logsumexp(-1))
    answer.entropy = -torch.special.xlogy(p, p).sum(-1)
    answer.largest, answer.argmax = p.max(-1)
    answer.argmax = torch.where(answer.largest > 0, answer.argmax, -1)
    answer.squares = (p * p).sum(-1)
    if request.functionals is not None:
        answer.functionals = p @ request.functionals.double()
    if request.band is not None:
        table = torch.nn.functional.pad(request.band.double(), (0, 1))
        weights = table[:, torch.where(distance < 0, -1, distance).clamp(max=table.shape[1] - 1)]
        answer.band = torch.einsum("bhij,wij->bhiw", p, weights)
    if request.columns is not None:
        answer.columns = request.columns.double() @ p
    return answer


def check(request: Request, answer: Primitives, wanted: Primitives, loose: float = 1e-5, **bounds: float) -> None:
    """What was asked is there and right, relative to its natural size; what was not is not there."""
    for name in ("output", "lse", "entropy", "largest", "squares", "functionals", "band", "columns"):
        given, right = getattr(answer, name), getattr(wanted, name)
        assert (given is not None) == (name == "lse" or was_asked(request, name)), name
        if given is not None:
            assert given.dtype == (request.v.dtype if name == "output" else torch.float32), name
            size = max([1.0, *right[right.isfinite()].abs().flatten().tolist()])
            torch.testing.assert_close(
                given.double(),
                right,
                atol=size * bounds.get(name, loose),
                rtol=0,
                msg=lambda text, name=name: f"{name}: {text}",
            )
    assert (answer.argmax is not None) == request.largest
    if request.largest:
        check_argmax(request, answer.argmax, wanted, loose)


def was_asked(request: Request, name: str) -> bool:
    value = getattr(request, name)
    return value is not None and value is not False


def check_argmax(request: Request, argmax: Tensor, wanted: Primitives, loose: float) -> None:
    """The right key, or one whose score is the largest but for rounding."""
    assert torch.equal(argmax == -1, wanted.argmax == -1)
    chosen = scores(request).gather(-1, argmax.clamp(min=0).long()[..., None])[..., 0]
    best = scores(request).gather(-1, wanted.argmax.clamp(min=0)[..., None])[..., 0]
    assert bool((chosen >= best - loose * best.abs().clamp(min=1))[wanted.argmax >= 0].all())


@pytest.mark.parametrize(("length", "d"), [(1, 16), (17, 64), (64, 32), (96, 16), (130, 64)])
def test_everything_at_odd_lengths(length: int, d: int) -> None:
    request = ask(length, d=d, heads=4 if length < 90 else 2)
    check(request, run(request, parts=1), dense(request))


@pytest.mark.parametrize("name", ["output", *STATISTICS])
def test_each_statistic_alone(name: str) -> None:
    """Also without the output; what was not asked is left out."""
    nothing: dict[str, object] = {"output": False, "entropy": False, "largest": False, "squares": False}
    nothing |= {"functionals": None, "band": None, "columns": None}
    everything = ask(33)
    request = replace(everything, **{**nothing, name: getattr(everything, name)})
    check(request, run(request, parts=1), dense(request))


@pytest.mark.parametrize("queries", [5, 70])
@pytest.mark.parametrize(
    "changes",
    [
        {"softcap": 3.0},
        {"softcap": 50.0, "scale": 1.0},
        {"slopes": torch.tensor([0.5, 0.0])},
        {"shift": True},
        {"rule": "sigmoid", "shift": True},
        {"rule": "sigmoid", "scale": 12.0},
        {"rule": "sigmoid", "softcap": 2.0, "slopes": torch.tensor([1.0, 0.125])},
        {"scale": -0.4},
        {"scale": 0.0},
        {"scale": 1e-9},
        {"scale": 8.0},
    ],
    ids=str,
)
def test_scores(queries: int, changes: dict[str, object]) -> None:
    """Both with all rows of a head together, and with all heads of a kv head in parts of the keys."""
    if "shift" in changes:
        changes = {**changes, "shift": draw(1, 2, queries, seed=7) - 4}
    changes = {name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in changes.items()}
    request = ask(queries, 70, **changes)
    loose = (
        1e-5 if abs(request.scale) <= 1 else 1e-4
    )  # scores of 200 and more carry float32's rounding into the weights
    check(request, run(request, parts=1), dense(request), loose)
    if queries == 5:
        check(request, run(request, parts=2), dense(request), loose)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (2, 2)], ids=str)
def test_any_intervals_and_prefixes(shape: tuple[int, int]) -> None:
    request = ask(75, 130, batch=2, rows=scattered(*shape, 75, 130))
    answer = run(request, parts=1)
    check(request, answer, dense(request))
    blind = request.rows.high <= request.rows.low
    blind &= request.rows.stop <= request.rows.first
    blind = blind.expand(2, 2, 75)
    assert blind.any() and bool((answer.lse[blind] == -torch.inf).all()) and bool((answer.argmax[blind] == -1).all())
    for name in ("output", "entropy", "largest", "squares", "functionals", "band"):
        assert not getattr(answer, name)[blind].any(), name


@pytest.mark.parametrize("parts", [1, 3])
def test_no_row_sees_anything(parts: int) -> None:
    nothing = torch.zeros(1, 1, 4, dtype=torch.int32, device=DEVICE)
    request = ask(4, 200, rows=Rows(nothing, nothing, nothing, nothing))
    check(request, run(request, parts=parts), dense(request))


@pytest.mark.parametrize(("queries", "keys"), [(1, 130), (17, 96), (100, 40)])
def test_other_numbers_of_queries_than_keys(queries: int, keys: int) -> None:
    request = ask(queries, keys)
    check(request, run(request, parts=1), dense(request))


def test_window_with_sink_over_many_tiles() -> None:
    i = torch.arange(300, dtype=torch.int32, device=DEVICE).reshape(1, 1, -1)
    rows = Rows((i - 159).clamp(min=0), i + 1, torch.zeros_like(i), torch.full_like(i, 4))
    request = ask(300, d=16, heads=1, kv_heads=1, rows=rows)
    check(request, run(request), dense(request))


@pytest.mark.parametrize(("d", "d_value"), [(20, 48), (33, 5), (256, 16), (8, 200)])
def test_any_width_of_heads(d: int, d_value: int) -> None:
    request = ask(40, d=d, d_value=d_value)
    check(request, run(request), dense(request))


ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""Half a step of the dtype, relative to the number."""


def bounds(dtype: torch.dtype) -> dict[str, float]:
    """Of outputs, which are rounded to the dtype; on a GPU the pattern is rounded too before it meets the values, and
    to bfloat16 before it meets functionals."""
    rounding = ROUNDING.get(dtype, 0.0)
    if DEVICE.type == "cpu":
        return {"output": rounding + 1e-5}
    return {"output": 2 * rounding + 1e-5, "functionals": 2**-8 if rounding else 1e-5}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("parts", [1, 2])
def test_half_precision(dtype: torch.dtype, parts: int) -> None:
    request = ask(20 if parts > 1 else 96, 130)
    request = replace(request, q=request.q.to(dtype), k=request.k.to(dtype), v=request.v.to(dtype))
    check(request, run(request, parts=parts), dense(request), **bounds(dtype))


def test_half_precision_loses_no_position() -> None:
    """Positions of four digits have no bfloat16; the functionals still carry them."""
    request = ask(64, functionals=1e4 + torch.arange(64, device=DEVICE).float()[None, None, :, None])
    request = replace(request, q=request.q.bfloat16(), k=request.k.bfloat16(), v=request.v.bfloat16())
    off = (run(request, parts=1).functionals.double() - dense(request).functionals).abs().max()
    assert off < (0.01 if DEVICE.type == "cpu" else 64 * 2**-8)


@pytest.mark.parametrize(("number", "heads"), [(1, 2), (7, 1), (25, 1)])
def test_any_number_of_functionals(number: int, heads: int) -> None:
    request = ask(40, functionals=draw(1, heads, 40, number, seed=9))
    check(request, run(request), dense(request))


@pytest.mark.parametrize("number", [1, 5])
def test_any_number_of_column_weightings_and_bands(number: int) -> None:
    request = ask(70, columns=draw(1, 2, number, 70, seed=8), band=draw(number + 1, 130, seed=9))
    check(request, run(request), dense(request))


def test_column_sums_count_every_row_once() -> None:
    request = ask(130, columns=torch.ones(1, 1, 1, 130, device=DEVICE), band=None)
    torch.testing.assert_close(
        run(request).columns.sum(-1), torch.full((1, 2, 1), 130.0, device=DEVICE), atol=1e-3, rtol=0
    )


def test_equal_scores_name_the_lowest_key() -> None:
    """Also where tiles are not visited in the order of their keys."""
    key = draw(1, 1, 1, 16).round()
    ends = torch.tensor([20, 150, 3, 5], dtype=torch.int32, device=DEVICE)[:, None, None, None]
    late = Rows(*ends[:2].expand(2, 1, 1, 150), *torch.zeros_like(ends[:2]).expand(2, 1, 1, 150))
    prefixed = Rows(*ends.expand(4, 1, 1, 150))
    for rows in (causal(150, 150), scattered(1, 1, 150, 150), late, prefixed):
        request = ask(150, d=16, heads=1, kv_heads=1, rows=rows)
        request = replace(request, q=request.q.round(), k=key.expand(1, 1, 150, 16))  # sums that nothing rounds
        seen = scores(request).isfinite()
        lowest = torch.where(seen.any(-1), seen.int().argmax(-1), -1)
        assert torch.equal(run(request).argmax.long(), lowest)


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("rows", [causal(3, 200), scattered(1, 4, 3, 200)], ids=["causal", "scattered"])
def test_keys_in_parts(parts: int, rows: Rows) -> None:
    request = ask(3, 200, heads=4, rows=rows)
    answer = run(request, parts=parts)
    assert f"keys in {parts} parts" in answer.notes
    check(request, answer, dense(request))


def test_few_queries_are_taken_in_parts_by_themselves() -> None:
    assert any("parts" in note for note in run(ask(1, 200)).notes)
    assert not any("parts" in note for note in run(ask(100, 100)).notes)


@pytest.mark.parametrize(("size", "shape"), [((32, 32), (1, 1)), ((64, 16), (1, 2)), ((16, 48), (1, 1))], ids=str)
def test_block_mask(size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Blocks that are not listed count for nothing, in every statistic; some rows lose all their keys."""
    length = 100
    blocks = draw(*shape, -(-length // size[0]), -(-length // size[1]), seed=5) > 0.2
    blocks[:, :, 1] = False
    cells = blocks.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3)[..., :length, :length]
    request = ask(length, d=16)
    check_blocks(request, run(request, blocks=blocks, block_size=size), dense(request, ~cells))


def check_blocks(request: Request, answer: Primitives, wanted: Primitives) -> None:
    check(replace(request, largest=False), replace(answer, largest=None, argmax=None), wanted)
    torch.testing.assert_close(answer.largest.double(), wanted.largest, atol=1e-5, rtol=0)
    assert torch.equal(answer.argmax.long(), wanted.argmax)


def test_block_masks_that_do_not_fit() -> None:
    blocks = torch.ones(1, 1, 3, 2, dtype=torch.bool, device=DEVICE)
    for size in (64, 20):
        with pytest.raises(InterpError, match="blocks") as caught:
            run(ask(130), blocks=blocks, block_size=size)
        assert caught.value.code == "E206"


def test_tensors_of_any_layout() -> None:
    """Heads beside d_head, as models hand them over, and keys with the wrong axis contiguous."""
    plain = ask(50)
    other = replace(
        plain,
        q=plain.q.transpose(1, 2).contiguous().transpose(1, 2),
        k=plain.k.transpose(2, 3).contiguous().transpose(2, 3),
        v=torch.cat([plain.v, plain.v], -1)[..., ::2][..., : plain.v.shape[-1]],
    )
    assert not other.q.is_contiguous() and not other.k.is_contiguous() and not other.v.is_contiguous()
    check(other, run(other), dense(other))


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU searches in every other test")
def test_a_searched_tile_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one candidate, since no time can be taken here."""
    from interp.kernels.backends.triton import launch
    from interp.kernels.backends.triton.forward import forward_kernel
    from interp.kernels.backends.triton.row_pass import launch_forward

    request = ask(50)
    request = replace(request, q=request.q.half(), k=request.k.half(), v=request.v.half())
    problem = prepare(request)
    searching = launch.Tuned(forward_kernel, ("length", "MEANS"), (launch.Tile(16, 32),))
    monkeypatch.setattr("interp.kernels.backends.triton.forward.forward", searching)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    found = launch_forward(problem)
    assert len(searching._searches) == 1
    torch.testing.assert_close(found["out_lse"][0].double(), dense(request).lse, atol=1e-5, rtol=0)


def test_the_same_numbers_twice() -> None:
    request = ask(96)
    one, two = run(request), run(request)
    for field in fields(Primitives):
        first, second = getattr(one, field.name), getattr(two, field.name)
        assert torch.equal(first, second) if isinstance(first, Tensor) else first == second


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: replace(r, q=r.q.double(), k=r.k.double(), v=r.v.double()), "float64"),
        (lambda r: replace(r, v=r.v.half()), "all alike"),
        (lambda r: replace(r, v=torch.zeros(*r.v.shape[:3], 300, device=DEVICE)), "256"),
        (lambda r: replace(r, q=r.q.to("meta")), "meta"),
    ],
)
def test_requests_that_are_refused(change: Callable[[Request], Request], words: str) -> None:
    request = change(ask(8))
    assert words in (supports(request) or "")
    with pytest.raises(InterpError, match=words):
        run(request)
    assert supports(ask(8)) is None


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU: the interpreter is too slow for it")
@pytest.mark.parametrize("dtype", [torch.float32, *ROUNDING], ids=str)
@pytest.mark.parametrize("d", [64, 128])
def test_long_inputs_on_the_gpu(dtype: torch.dtype, d: int) -> None:
    request = ask(2050, d=d)
    request = replace(request, q=request.q.to(dtype), k=request.k.to(dtype), v=request.v.to(dtype))
    check(request, run(request), dense(request), **bounds(dtype))
