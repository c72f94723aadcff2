"""Linear-time operators: weights, chunks and recurrence give the same, at a cost that grows as the length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from interp.kernels.backends.chunked import Chunked
from interp.kernels.backends.linear_time import LinearTime
from interp.kernels.backends.recurrent import Recurrent
from interp.kernels.backends.rows import Eager
from interp.kernels.feature_maps import Hedgehog, Taylor
from interp.kernels.problem import Problem
from interp.kernels.statistics import statistic
from interp.kernels.statistics.masses import SinkMass
from interp.kernels.variants import Variant, variants
from interp.kernels.variants.agent import Agent
from interp.kernels.variants.decay import GatedLinear, Lightning, PlainLinear, Retention
from interp.kernels.variants.feature_mapped import HedgehogAttention, LinearAttention, LogNormal, TaylorAttention
from interp.kernels.variants.flow import Flow
from interp.kernels.variants.focused import Focused
from interp.kernels.variants.linear import Linear

B, H, KV, D = 2, 4, 2, 4


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(n_keys: int, n_queries: int | None = None, dtype: torch.dtype = torch.float64, **more: Any) -> Problem:
    q = tensor(B, H, n_keys if n_queries is None else n_queries, D)
    k, v = tensor(B, KV, n_keys, D, seed=1), tensor(B, KV, n_keys, D + 1, seed=2)
    return Problem(
        q.to(dtype), k.to(dtype), v.to(dtype), D**-0.5, head_index=tuple(range(H)), n_heads=H, **more
    )  # fmt: skip


def gates(n_keys: int, heads: int = KV, channels: int = D, strength: float = 0.3) -> Tensor:
    return -strength * tensor(B, heads, n_keys, channels, seed=3).abs()


EXAMPLES: dict[str, Callable[[int], Linear]] = {
    **{name: (lambda n, of=of: of()) for name, of in variants().items() if issubclass(of, Linear) and of is not GatedLinear},
    "linear-attention, full": lambda n: LinearAttention(causal=False),
    "taylor of order 4": lambda n: TaylorAttention(map=Taylor(4)),
    "hedgehog with a matrix": lambda n: HedgehogAttention(map=Hedgehog(tensor(H, D, 3))),
    "log-normal, full": lambda n: LogNormal(alpha=0.7, beta=1.2, causal=False),
    "plain-linear, full": lambda n: PlainLinear(causal=False),
    "retention with gammas": lambda n: Retention(gamma=[0.5, 1.0, 0.9, 0.99]),
    "lightning, layer 3": lambda n: Lightning(layer=3, n_layers=8),
    "gated-linear": lambda n: GatedLinear(gates=gates(n)),
    "gated-linear, by query head": lambda n: GatedLinear(gates=gates(n, H)),
    "gated-linear, one gate": lambda n: GatedLinear(gates=gates(n, channels=1)),
    "focused, full": lambda n: Focused(causal=False, power=2.0),
    "flow, full": lambda n: Flow(causal=False),
    "agent, three": lambda n: Agent(agents=3),
}  # fmt: skip


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def padded(n: int) -> Tensor:
    mask = torch.ones(B, n, dtype=torch.bool)
    mask[1, : n // 3] = False
    return mask


def packed(n: int) -> Tensor:
    cuts = torch.tensor([[n // 4, n // 2], [n // 3, n - 1]])
    return (torch.arange(n) >= cuts[..., None]).sum(1)


def test_every_linear_operator_is_here() -> None:
    named = {name for name, of in variants().items() if of.linear_time}
    assert named == {name for name, of in variants().items() if issubclass(of, Linear)}
    assert named <= {made(8).name for made in EXAMPLES.values()}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("form", [Chunked(chunk=16), Recurrent(block=12)], ids=["chunked", "recurrent"])
def test_forms_agree(name: str, form: LinearTime) -> None:
    for n, more in ((1, {}), (9, {"key_mask": padded(9)}), (50, {"documents": packed(50)})):
        operator = EXAMPLES[name](n)
        for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            given = problem(n, dtype=dtype, **more)
            assert relative(form.run(given, operator, {}).output, Eager().run(given, operator, {}).output) < bound


@pytest.mark.parametrize("name", [name for name in EXAMPLES if EXAMPLES[name](1).name != "flow" or "full" in name])
def test_forms_agree_with_cached_keys(name: str) -> None:
    operator = EXAMPLES[name](45)
    for documents in (None, packed(45)):
        given = problem(45, 23, documents=documents)
        wanted = Eager().run(given, operator, {}).output
        for form in (Chunked(chunk=16), Recurrent(block=16)):
            assert relative(form.run(given, operator, {}).output, wanted) < 1e-12


@pytest.mark.parametrize(
    "name", ["retention with gammas", "gated-linear, by query head", "hedgehog with a matrix", "focused"]
)
def test_some_heads_alone_are_as_among_all(name: str) -> None:
    given, operator = problem(40), EXAMPLES[name](40)
    whole, some = (Chunked(chunk=16).run(each, operator, {}).output for each in (given, given.of_heads([3, 1])))
    assert torch.allclose(some, whole[:, [3, 1]], atol=1e-12)


@pytest.mark.parametrize("strength", [5.0, 40.0])
def test_deep_decay_neither_overflows_nor_drifts(strength: float) -> None:
    """Over 96 tokens the gates add up to -500 and -4000, far beyond what exp holds."""
    operator = GatedLinear(gates=gates(96, strength=strength))
    wanted = Eager().run(problem(96), operator, {}).output
    for form in (Chunked(), Recurrent()):
        found = form.run(problem(96, dtype=torch.float32), operator, {}).output
        assert bool(found.isfinite().all()) and relative(found.double(), wanted) < 1e-5


def test_half_precision_is_computed_in_single() -> None:
    given = problem(64, dtype=torch.bfloat16)
    single = replace(given, q=given.q.float(), k=given.k.float(), v=given.v.float(), memo={})
    found, wanted = (Chunked().run(each, LinearAttention(), {}).output for each in (given, single))
    assert found.dtype == torch.bfloat16 and torch.equal(found, wanted.to(torch.bfloat16))


@pytest.mark.parametrize("name", EXAMPLES)
def test_gradients_are_those_of_the_weights(name: str) -> None:
    found = []
    for form in (Eager(), Chunked(chunk=8), Recurrent(block=8)):
        given = problem(21, key_mask=padded(21))
        leaves = [x.requires_grad_() for x in (given.q, given.k, given.v)]
        output = form.run(given, EXAMPLES[name](21), {}).output
        found.append(torch.autograd.grad((output * tensor(*output.shape, seed=9)).sum(), leaves))
    for each in found[1:]:
        for gradient, wanted in zip(each, found[0], strict=True):
            assert torch.allclose(gradient, wanted, atol=1e-9 * float(wanted.abs().max()))


KEY_SUMS = {"mass": statistic("mass"), "sinks": SinkMass(3), "mean-distance": statistic("mean-distance")}


@pytest.mark.parametrize("name", [name for name in EXAMPLES if EXAMPLES[name](1).non_negative])
@pytest.mark.parametrize(
    "more", [{}, {"key_mask": padded(50)}, {"documents": packed(50)}], ids=["", "padded", "packed"]
)
def test_sums_over_keys_come_along(name: str, more: dict[str, Tensor]) -> None:
    given, operator = problem(50, **more), EXAMPLES[name](50)
    wanted = Eager().run(given, operator, KEY_SUMS).statistics
    for form in (Chunked(chunk=16), Recurrent(block=16)):
        assert form.refuses(given, operator, KEY_SUMS) is None
        found = form.run(given, operator, KEY_SUMS).statistics
        for label in KEY_SUMS:
            assert torch.allclose(found[label], wanted[label], atol=1e-9, equal_nan=True), label


def test_mass_of_signed_weights_comes_along() -> None:
    given, operator = problem(50), Retention()
    found, wanted = (form.run(given, operator, {"mass": statistic("mass")}).statistics for form in (Chunked(), Eager()))
    assert torch.allclose(found["mass"], wanted["mass"], atol=1e-10) and float(wanted["mass"].min()) < 0


@pytest.mark.parametrize("name", ["entropy", "effective-keys", "received", "largest", "offset-mass", "window-mass"])
def test_what_is_no_sum_over_keys_is_refused(name: str) -> None:
    reason = Chunked().refuses(problem(9), LinearAttention(), {name: statistic(name)})
    assert reason is not None and "no sum over keys" in reason


def test_other_refusals() -> None:
    given = problem(9)
    assert "either sign" in (Chunked().refuses(given, Retention(), {"s": SinkMass(2)}) or "")
    assert "state" in (Chunked().refuses(given, variants()["softmax"](), {}) or "")
    masked = replace(given, mask=torch.ones(1, 1, 9, 9, dtype=torch.bool), memo={})
    assert "cell by cell" in (Recurrent().refuses(masked, LinearAttention(), {}) or "")


class Largest(TorchDispatchMode):
    """Size of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, Tensor):
                self.cells = max(self.cells, each.untyped_storage().nbytes() // each.element_size())
        return made


def cost(form: Any, operator: Variant, n: int) -> tuple[int, int]:
    """Multiplications of matrices, and cells of the largest tensor."""
    given = problem(n)
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Largest() as largest:
        form.run(given, operator, {})
    return flops.get_total_flops(), largest.cells


@pytest.mark.parametrize("name", EXAMPLES)
def test_cost_grows_as_the_length(name: str) -> None:
    (few, small), (many, large) = (cost(Chunked(chunk=32), EXAMPLES[name](n), n) for n in (128, 256))
    assert many == pytest.approx(2 * few, rel=0.01), "work"
    assert large <= 2.01 * small and large <= 40 * 256 * B * H * D, "memory"


def test_cost_of_weights_grows_as_its_square() -> None:
    (few, small), (many, large) = (cost(Eager(), LinearAttention(), n) for n in (256, 512))
    assert many > 3.5 * few and large == 4 * small
