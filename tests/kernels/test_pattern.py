"""Slices of patterns against the whole pattern, made by plain softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import attention
from interp.kernels.errors import InterpError
from interp.kernels.pattern import pattern
from interp.kernels.variants.sinks import OffByOne
from interp.kernels.variants.window import Window

B, H, KV, N, D = 2, 4, 2, 21, 6


def tensor(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = tensor(B, H, N, D, seed=0), tensor(B, KV, N, D, seed=1), tensor(B, KV, N, D, seed=2)


def dense(window: int = N) -> Tensor:
    """Causal softmax, every row and head."""
    at = torch.arange(N)
    distance = at[:, None] - at
    scores = torch.einsum("bhqd,bhkd->bhqk", Q, K.repeat_interleave(2, 1)) / D**0.5
    return scores.masked_fill((distance < 0) | (distance >= window), float("-inf")).softmax(-1)


@pytest.mark.parametrize("heads", [None, [3, 1]])
@pytest.mark.parametrize("queries", [slice(None), slice(5, 9), [20, 3, 4, 5, 0]])
@pytest.mark.parametrize("keys", [slice(None), [7, 2]])
def test_slices_are_those_of_the_whole(
    heads: list[int] | None, queries: slice | list[int], keys: slice | list[int]
) -> None:
    found = pattern(Q, K, heads=heads, queries=queries, keys=keys)
    wanted = dense()[:, slice(None) if heads is None else heads][:, :, queries][..., keys]
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_an_operator_and_its_effective_weights() -> None:
    torch.testing.assert_close(pattern(Q, K, variant=Window(size=4), queries=[9]), dense(4)[:, :, [9]])
    weights = pattern(Q, K, V, OffByOne(), effective=True)
    output = torch.einsum("bhqk,bhkd->bhqd", weights, V.repeat_interleave(2, 1))
    torch.testing.assert_close(output, attention(Q, K, V, OffByOne()).output)
    assert float(weights.sum(-1).max()) < 1
    torch.testing.assert_close(pattern(Q, K, V, OffByOne()).sum(-1), torch.ones(B, H, N, dtype=torch.float64))


def test_padding_gets_and_gives_nothing() -> None:
    real = torch.ones(B, N, dtype=torch.bool)
    real[1, :5] = False
    found = pattern(Q, K, key_mask=real)
    assert float(found[1, :, :5].abs().max()) == 0 == float(found[1, :, :, :5].abs().max())


def test_long_rows_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.kernels.pattern.CELLS", 3 * B * N)
    torch.testing.assert_close(pattern(Q, K), dense(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"heads": [4]}, "E203"),
        ({"queries": [-1]}, "E203"),
        ({"keys": [N]}, "E203"),
        ({"variant": "softmaxx"}, "E201"),
    ],
)
def test_bad_input(wrong: dict[str, object], code: str) -> None:
    with pytest.raises(InterpError) as caught:
        pattern(Q, K, **wrong)
    assert caught.value.code == code
