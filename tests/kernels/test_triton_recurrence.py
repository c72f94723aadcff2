"""Triton's chunked recurrences against the recurrences themselves, token by token in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.kernels.backends.triton.launch import unusable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(unusable(DEVICE) is not None, reason=str(unusable(DEVICE)))

LENGTHS = (1, 17, 64, 130)
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""Half a step of the dtype, relative to the number."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def inputs(length: int, d: int = 16, d_value: int = 24, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return draw(2, heads, length, d), draw(2, heads, length, d, seed=1), draw(2, heads, length, d_value, seed=2)


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, scale: float = 1.0, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`S <- gate S + k v^T`, `o = scale q S`; the gate is that of each channel of each token."""
    q, k, v, gate = (x.double() for x in (q, k, v, gate))
    s = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=torch.float64, device=DEVICE)
    s = s if state is None else state.double()
    out = []
    for t in range(q.shape[2]):
        s = gate[:, :, t, :, None] * s + k[:, :, t, :, None] * v[:, :, t, None, :]
        out.append(scale * torch.einsum("bhd,bhdv->bhv", q[:, :, t], s))
    return torch.stack(out, 2), s


def close(
    found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], output: float = 1e-5, state: float = 1e-5
) -> None:
    for given, right, bound in zip(found, wanted, (output, state), strict=True):
        size = max(1.0, float(right.abs().max()))
        torch.testing.assert_close(given.double(), right, atol=bound * size, rtol=0)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("chunk", [16, 64])
def test_decay(length: int, chunk: int) -> None:
    """A slow, a fast, and no decay; from nothing, and from a state."""
    from interp.kernels.backends.triton.recurrence import decay

    q, k, v = inputs(length, heads=3)
    log_decay = torch.tensor([-0.03, -9.0, 0.0], device=DEVICE)
    gate = log_decay.exp()[None, :, None, None].expand(q.shape)
    close(decay(q, k, v, log_decay, chunk=chunk), recurrence(q, k, v, gate))
    state = draw(2, 3, 16, 24, seed=5)
    close(decay(q, k, v, log_decay, chunk=chunk, scale=0.3, state=state), recurrence(q, k, v, gate, 0.3, state))


@pytest.mark.parametrize("length", [1, 17, 70])
def test_gates(length: int) -> None:
    """Gates as weak as 1 and as strong as e^-30 a token: their product over a chunk has no float32."""
    from interp.kernels.backends.triton.recurrence import gated

    q, k, v = inputs(length)
    log_gate = -30 * torch.rand(q.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE) ** 4
    log_gate[..., 0] = 0
    close(gated(q, k, v, log_gate), recurrence(q, k, v, log_gate.exp()))
    state = draw(2, 2, 16, 24, seed=5)
    close(gated(q, k, v, log_gate, scale=0.3, state=state), recurrence(q, k, v, log_gate.exp(), 0.3, state))


@pytest.mark.parametrize(("d", "d_value"), [(20, 64), (64, 7)])
def test_any_width(d: int, d_value: int) -> None:
    from interp.kernels.backends.triton.recurrence import decay, gated

    q, k, v = inputs(40, d, d_value)
    log_decay = torch.tensor([-0.1, -0.2], device=DEVICE)
    gate = log_decay[None, :, None, None].expand(q.shape)
    wanted = recurrence(q, k, v, gate.exp())
    close(decay(q, k, v, log_decay), wanted)
    close(gated(q, k, v, gate), wanted)


def test_a_sequence_in_two_pieces() -> None:
    from interp.kernels.backends.triton.recurrence import decay

    q, k, v = inputs(100)
    log_decay = torch.tensor([-0.05, -0.5], device=DEVICE)
    whole, end = decay(q, k, v, log_decay)
    first, state = decay(q[:, :, :37], k[:, :, :37], v[:, :, :37], log_decay)
    second, state = decay(q[:, :, 37:], k[:, :, 37:], v[:, :, 37:], log_decay, state=state)
    torch.testing.assert_close(torch.cat([first, second], 2), whole, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(state, end, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    """Outputs are rounded to the dtype, the state is not; on a GPU the products have eleven bits (tf32)."""
    from interp.kernels.backends.triton.recurrence import decay, gated

    q, k, v = (x.to(dtype) for x in inputs(70, heads=1))
    log_decay = torch.tensor([-0.1], device=DEVICE)
    gate = log_decay[None, :, None, None].expand(q.shape)
    wanted = recurrence(q, k, v, gate.exp())
    products = 1e-5 if DEVICE.type == "cpu" else 2**-9
    for found in (decay(q, k, v, log_decay), gated(q, k, v, gate)):
        assert found[0].dtype == dtype and found[1].dtype == torch.float32
        close(found, wanted, output=ROUNDING[dtype] + products, state=products)
