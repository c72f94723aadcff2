"""The torch kernel against loops over the keys of each row, and what it costs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.backends import blockwise_kernel
from interp.kernels.backends.blockwise_tile import Tile
from interp.kernels.backends.primitives import RULES, Primitives, Request, Rows
from interp.kernels.variants.softmax import Softmax
from interp.kernels.variants.window import Window

B, H, KV, D, DV = 2, 4, 2, 3, 5


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def intervals(n_queries: int, n_keys: int, seed: int) -> Rows:
    """Random intervals and prefixes, some empty, some overlapping."""
    draw = torch.randint(0, n_keys + 1, (4, B, H, n_queries), generator=torch.Generator().manual_seed(seed)).int()
    low, high = draw[:2].sort(0).values
    first, stop = (draw[2:] // 4).sort(0).values
    empty = torch.rand(B, H, n_queries, generator=torch.Generator().manual_seed(seed)) < 0.2
    return Rows(low, torch.where(empty, low, high), first, torch.where(empty.flip(-1), first, stop))


def request(n_queries: int, n_keys: int, rule: str, rows: Rows, *, extras: bool) -> Request:
    return Request(
        tensor(B, H, n_queries, D),
        tensor(B, KV, n_keys, D, seed=1),
        tensor(B, KV, n_keys, DV, seed=2),
        0.7,
        rows,
        softcap=1.5 if extras else None,
        slopes=torch.tensor([0.1, 0.2, 0.0, 0.5]) if extras else None,
        shift=tensor(B, 1, n_queries, seed=3) if extras else None,
        rule=rule,
        entropy=True,
        largest=True,
        squares=True,
        functionals=tensor(B, 1, n_keys, 2, seed=4),
        band=tensor(3, 4, seed=5),
        columns=tensor(1, H, 2, n_queries, seed=6),
    )


def by_loops(asked: Request) -> Primitives:
    """Every number from its definition, key by key, in float64."""
    n_queries, n_keys = asked.q.shape[2], asked.k.shape[2]
    rows, offset = asked.rows, n_keys - n_queries
    shape = (B, H, n_queries)
    assert asked.functionals is not None and asked.band is not None and asked.columns is not None

    def zeros(*width: int) -> Tensor:
        return torch.zeros(*shape, *width, dtype=torch.float64)

    found = Primitives(
        output=zeros(DV),
        lse=zeros() - float("inf"),
        entropy=zeros(),
        largest=zeros(),
        argmax=torch.full(shape, -1),
        squares=zeros(),
        functionals=zeros(2),
        band=zeros(3),
        columns=torch.zeros(B, H, 2, n_keys, dtype=torch.float64),
    )
    for b in range(B):
        for h in range(H):
            for i in range(n_queries):
                at = tuple(min(x, size - 1) for x, size in zip((b, h, i), rows.low.shape, strict=True))
                keys = sorted(
                    {*range(int(rows.low[at]), int(rows.high[at])), *range(int(rows.first[at]), int(rows.stop[at]))}
                )
                if not keys:
                    continue
                f = []
                for j in keys:
                    s = 0.7 * float(asked.q[b, h, i].double() @ asked.k[b, h // 2, j].double())
                    s = s if asked.softcap is None else asked.softcap * math.tanh(s / asked.softcap)
                    s -= 0 if asked.slopes is None else float(asked.slopes[h]) * abs(i + offset - j)
                    s += 0 if asked.shift is None else float(asked.shift[b, 0, i])
                    f.append(math.exp(s) if asked.rule == "softmax" else 1 / (1 + math.exp(-s)))
                p = [one / sum(f) for one in f]
                found.lse[b, h, i] = math.log(sum(f))
                found.entropy[b, h, i] = -sum(one * math.log(one) for one in p)
                found.largest[b, h, i], found.squares[b, h, i] = max(p), sum(one * one for one in p)
                found.argmax[b, h, i] = keys[p.index(max(p))]
                for j, one, weight in zip(keys, p, f, strict=True):
                    given = one if asked.rule == "softmax" else weight
                    found.output[b, h, i] += given * asked.v[b, h // 2, j].double()
                    found.functionals[b, h, i] += one * asked.functionals[b, 0, j].double()
                    found.columns[b, h, :, j] += one * asked.columns[0, h, :, i].double()
                    if 0 <= i + offset - j < 4:
                        found.band[b, h, i] += one * asked.band[:, i + offset - j].double()
    return found


def same(found: Primitives, wanted: Primitives) -> None:
    for name in ("output", "lse", "entropy", "largest", "squares", "functionals", "band", "columns"):
        one, other = getattr(found, name), getattr(wanted, name)
        torch.testing.assert_close(
            one.double(), other, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert torch.equal(found.argmax.long(), wanted.argmax)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 1), (7, 7), (5, 19), (19, 5)])
def test_any_intervals(rule: str, extras: bool, n_queries: int, n_keys: int) -> None:
    asked = request(n_queries, n_keys, rule, intervals(n_queries, n_keys, seed=n_keys), extras=extras)
    same(blockwise_kernel.run(asked), by_loops(asked))


@pytest.mark.parametrize("rows", [4, 8])
@pytest.mark.parametrize("lane", [2, 64])
def test_many_blocks_and_lanes(rows: int, lane: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, one head at a time, so that every seam is crossed."""
    monkeypatch.setattr(blockwise_kernel, "ROWS", rows)
    monkeypatch.setattr(blockwise_kernel, "CELLS", 1)
    monkeypatch.setattr("interp.kernels.backends.blockwise_tile.LANE", lane)
    at = torch.arange(13, dtype=torch.int32)[None, None]
    zero = torch.zeros_like(at)
    streaming = Rows((at - 5).clamp(min=0), at + 1, zero, (at + 1).clamp(max=3))
    causal = Rows(zero, at + 1, zero, zero)
    for seen in (streaming, causal, intervals(13, 13, seed=0)):
        asked = request(13, 13, "softmax", seen, extras=False)
        same(blockwise_kernel.run(asked), by_loops(asked))


def test_half_precision_is_computed_in_float32() -> None:
    at = torch.arange(40, dtype=torch.int32)[None, None]
    q, k, v = (tensor(1, 2, 40, 8, seed=seed).bfloat16() for seed in range(3))
    asked = Request(q, k, v, 1.0, Rows(at * 0, at + 1, at * 0, at * 0), entropy=True)
    found = blockwise_kernel.run(asked)
    p = (q.double() @ k.double().transpose(2, 3)).masked_fill(at > at.transpose(1, 2)[0], float("-inf")).softmax(-1)
    assert found.output is not None and found.output.dtype == torch.bfloat16
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum(-1).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.output, (p @ v.double()).bfloat16(), atol=1e-2, rtol=1e-2)


def test_large_scores_do_not_cancel() -> None:
    """Scores around 500: entropy is found from what lies below the largest."""
    q = torch.zeros(1, 1, 3, 2)
    q[..., 0] = 500
    k = torch.ones(1, 1, 3, 2)
    k[0, 0, :, 0] += torch.tensor([0.0, 1e-3, 2e-3])
    at = torch.arange(3, dtype=torch.int32)[None, None]
    found = blockwise_kernel.run(Request(q, k, k, 1.0, Rows(at * 0, at * 0 + 3, at * 0, at * 0), entropy=True))
    p = (q.double() @ k.double().transpose(2, 3)).softmax(-1)
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum(-1).float(), atol=1e-4, rtol=0)


def test_output_can_be_left_out_and_float64_is_refused() -> None:
    at = torch.arange(6, dtype=torch.int32)[None, None]
    q = tensor(1, 1, 6, 2)
    rows = Rows(at * 0, at + 1, at * 0, at * 0)
    found = blockwise_kernel.run(Request(q, q, q, 1.0, rows, output=False, squares=True))
    assert found.output is None and found.entropy is None and found.squares is not None
    assert blockwise_kernel.supports(Request(q.double(), q.double(), q.double(), 1.0, rows))
    assert blockwise_kernel.supports(Request(q, q, q, 1.0, rows)) is None


def test_a_window_reads_its_own_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that are computed grow with T times the window, not with T squared."""
    cells: list[int] = []
    scores = Tile.scores

    def counted(tile: Tile) -> Tensor:
        found = scores(tile)
        cells.append(found.numel())
        return found

    monkeypatch.setattr(Tile, "scores", counted)
    q = tensor(1, 2, 2048, 4)
    attention(q, q, q, Window(size=64), ["entropy"], "blockwise")
    assert sum(cells) <= 2 * 2048 * (256 + 64)
    cells.clear()
    attention(q, q, q, Softmax(), ["entropy"], "blockwise")
    assert sum(cells) <= 2 * 2048 * (2048 + 256) / 2
