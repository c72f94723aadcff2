"""Every operator, backend and statistic that is claimed, against the definition on dense rows in float64.

What a backend refuses is not claimed. The reference reads the same numbers as the backend, in float64: for bfloat16 and
float16 it is handed what remains of them after rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from interp.kernels.attention import AttentionOutput, attention
from interp.kernels.backends.base import Backend
from interp.kernels.backends.choice import backends
from interp.kernels.backends.fused import request_of
from interp.kernels.problem import Problem
from interp.kernels.statistics import statistics
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.received import Received
from interp.kernels.variants import variants
from interp.kernels.variants.base import Variant, pattern_of
from interp.kernels.variants.window import Window

B, H, KV, D = 2, 4, 2, 8
SIZES = (1, 17, 64, 96, 130, 257)
CORE = ("softmax", "full", "window", "streaming", "sigmoid", "alibi")
"""Run at every size; the others at two each, so that every size meets many of them."""
INTERPRETED = {"triton"} if not torch.cuda.is_available() else set()
"""Backends that run a thousand times slower here than where they are meant to run: core operators at few sizes."""

ELSEWHERE = {"flex"}
"""Compiles for a second or more at every shape: held against eager in its own test."""

OUTPUT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest error of outputs, relative to the largest entry (at least 1): two units in the last place of the dtype."""
NUMBERS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""The same of statistics and log sums, relative to the largest that there is (at least 1)."""


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole_numbers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


VARIANTS: dict[str, Callable[[int], dict[str, object]]] = {
    "alibi": lambda n: {},
    "delta": lambda n: {"of": Window(size=9), "every": 16},
    "dilated": lambda n: {"size": 5, "dilation": 3},
    "document": lambda n: {"segments": torch.arange(n).expand(B, n) * 3 // n},
    "expert-choice": lambda n: {"scores": tensor(B, H, n).sigmoid()},
    "gated-linear": lambda n: {"gates": -tensor(B, H, n, D).abs()},
    "gated-output": lambda n: {"logits": tensor(B, H, n)},
    "head-gates": lambda n: {"values": tensor(B, H, n).sigmoid()},
    "head-span": lambda n: {"alpha": [3, 5, 8, 40], "beta": 0.5},
    "key-value-bias": lambda n: {"keys": tensor(H, 2, D), "values": tensor(H, 2, D, seed=1)},
    "position-content": lambda n: {"grid": (1, n), "causal": False},
    "prefix-lm": lambda n: {"prefix": 1 + n // 3},
    "relative-bias": lambda n: {"table": tensor(H, 32)},
    "sink-logit": lambda n: {"sink": [0.5, -1.0, 2.0, 0.0]},
    "softcap": lambda n: {"softcap": 2.0},
    "streaming": lambda n: {"sink_tokens": 3, "recent": 11},
    "window": lambda n: {"size": 9},
}
"""Parameters of operators that need them, or that show more at these lengths with others than their own."""

STATISTICS: dict[str, Callable[[int], dict[str, object]]] = {
    "block-pooled": lambda n: {"block": 16},
    "clipped-distance": lambda n: {"window": 7},
    "future-influence": lambda n: {"delta": 3, "horizon": 20},
    "heavy-hitters": lambda n: {"k": 5},
    "last-queries": lambda n: {"n": 6},
    "output-norm-mass": lambda n: {"keys": 4, "w_o": tensor(H, D, 11)},
    "received": lambda n: {"weights": tensor(B, H, n, seed=7)},
    "segment-mass": lambda n: {"segments": torch.arange(n).expand(B, n) * 3 // n, "count": 3},
    "targeted-mass": lambda n: {"targets": whole_numbers(n + 1, B, H, n) - 1},
    "value-norm-mass": lambda n: {},
    "window-mass": lambda n: {"size": 5},
}


def variant_of(name: str, n: int) -> Variant:
    return variants()[name](**VARIANTS.get(name, lambda n: {})(n))


def statistics_of(n: int) -> dict[str, Statistic]:
    every = {name: kind(**STATISTICS.get(name, lambda n: {})(n)) for name, kind in statistics().items()}
    return {**every, "received by all": Received()}


def test_every_name_can_be_made() -> None:
    assert set(VARIANTS) <= set(variants()) and set(STATISTICS) <= set(statistics())
    for name in variants():
        variant_of(name, 64)
    statistics_of(64)


@dataclass(frozen=True)
class Case:
    """Tensors of one length and dtype, the second prompt padded at its left."""

    n: int
    dtype: torch.dtype

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        shapes = ((B, H, self.n, D), (B, KV, self.n, D), (B, KV, self.n, D))
        q, k, v = (tensor(*shape, seed=seed).to(self.dtype) for seed, shape in enumerate(shapes))
        return q * 2, k, v

    @property
    def key_mask(self) -> Tensor:
        real = torch.ones(B, self.n, dtype=torch.bool)
        real[1, : self.n // 5] = False
        return real

    def problem(self, variant: Variant, dtype: torch.dtype | None = None) -> Problem:
        q, k, v = (x if dtype is None else x.to(dtype) for x in self.tensors)
        every = tuple(range(H))
        return Problem(q, k, v, D**-0.5, self.key_mask, head_index=every, n_heads=H, aligned=variant.aligned)

    def run(self, variant: Variant, backend: str, asked: dict[str, Statistic], dtype: torch.dtype) -> AttentionOutput:
        q, k, v = (x.to(dtype) for x in self.tensors)
        return attention(q, k, v, variant, asked, backend, key_mask=self.key_mask)


def claimed(backend: Backend, problem: Problem, variant: Variant, asked: dict[str, Statistic]) -> dict[str, Statistic]:
    return {label: each for label, each in asked.items() if backend.refuses(problem, variant, {label: each}) is None}


def in_turn(asked: dict[str, Statistic], problem: Problem, variant: Variant) -> list[dict[str, Statistic]]:
    """Statistics that a fused kernel can be asked for, and the others: together they would all come from whole rows."""
    fused = {
        label: each for label, each in asked.items() if not isinstance(request_of(problem, variant, {label: each}), str)
    }
    others = {label: each for label, each in asked.items() if label not in fused}
    return [part for part in (fused, others) if part] or [{}]


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest wanted number (at least 1); infinite where one is NaN or -inf and the
    other isn't."""
    found, wanted = found.double(), wanted.double()
    strange = ~wanted.isfinite()
    if not torch.equal(strange, ~found.isfinite()) or not torch.equal(wanted.isnan(), found.isnan()):
        return float("inf")
    difference = (found - wanted)[~strange].abs()
    return float(difference.max() / wanted[~strange].abs().max().clamp(min=1)) if difference.numel() else 0.0


def at_keys(keys: Tensor, values: Tensor) -> Tensor:
    """Values at named keys, 0 at -1."""
    return torch.where(keys >= 0, values.gather(-1, keys.clamp(min=0)), 0)


class Reference:
    """The numbers in float64, all from dense rows."""

    def __init__(self, case: Case, variant: Variant) -> None:
        asked = statistics_of(case.n)
        problem = case.problem(variant, torch.float64)
        self.refused = {
            label: reason for label, each in asked.items() if (reason := each.check(problem, variant)) is not None
        }
        self.asked = {label: each for label, each in asked.items() if label not in self.refused}
        self.found = case.run(variant, "eager", self.asked, torch.float64)
        self.pattern = pattern_of(variant.weights(problem.view()).values)

    def errors(self, found: AttentionOutput) -> Iterator[tuple[str, float]]:
        yield "output", off(found.output, self.found.output)
        if found.lse is not None and self.found.lse is not None:
            yield "lse", off(found.lse, self.found.lse)
        for label, value in found.statistics.items():
            yield label, self.error(label, value)

    def error(self, label: str, value: Tensor) -> float:
        """Keys are right where what they get is: in float32 two keys may get the same."""
        if label == "arg-max":
            return off(at_keys(value[..., None], self.pattern)[..., 0], self.found["largest"].nan_to_num(0))
        if label == "top-keys":
            return off(at_keys(value, self.pattern), self.found["top-masses"].nan_to_num(0))
        if label == "heavy-hitters":
            received = self.found["received by all"]
            return off(at_keys(value, received), at_keys(self.found[label], received))
        return off(value, self.found[label])


def sizes_of(name: str) -> tuple[int, ...]:
    if name in CORE:
        return SIZES
    turn = sorted(variants()).index(name) % 3
    return (SIZES[turn], SIZES[turn + 3])


def cases() -> list[tuple[str, int, torch.dtype]]:
    found = [(name, n, torch.float32) for name in variants() for n in sizes_of(name)]
    for turn, name in enumerate(variants()):
        halves = (torch.bfloat16, torch.float16) if name in CORE else ((torch.bfloat16, torch.float16)[turn % 2],)
        found += [(name, 64 if name in CORE else 17, dtype) for dtype in halves]
    return found


@pytest.mark.parametrize(("name", "n", "dtype"), cases())
def test_what_is_claimed_is_right(name: str, n: int, dtype: torch.dtype) -> None:
    case, variant = Case(n, dtype), variant_of(name, n)
    reason = variant.check(case.problem(variant))
    if reason is not None:
        pytest.skip(reason)
    reference = Reference(case, variant)
    wrong = []
    for backend in backends().values():
        if backend.name in INTERPRETED and (name not in CORE or n not in (1, 17, 96)):
            continue
        problem = case.problem(variant)
        if backend.name in ELSEWHERE or backend.refuses(problem, variant, {}) is not None:
            continue
        for asked in in_turn(claimed(backend, problem, variant, reference.asked), problem, variant):
            for label, error in reference.errors(case.run(variant, backend.name, asked, dtype)):
                bound = OUTPUT[dtype] if label == "output" else NUMBERS[dtype]
                if not error <= bound:
                    wrong.append(f"{backend.name}, {label}: {error:.2e} > {bound:.0e}")
    assert not wrong, "\n".join(wrong)


def test_eager_and_blockwise_claim_everything() -> None:
    case = Case(64, torch.float32)
    asked = statistics_of(64)
    variant = variant_of("softmax", 64)
    for backend in backends().values():
        found = claimed(backend, case.problem(variant), variant, asked)
        assert (set(found) == set(asked)) or backend.name not in ("eager", "blockwise")


@pytest.mark.parametrize("name", list(variants()))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Of the backends that claim them, along a random direction in float64."""
    n, step = 12, 1e-6
    shapes = ((B, H, n, D), (B, KV, n, D), (B, KV, n, D))
    tensors = [tensor(*shape, seed=seed).double() for seed, shape in enumerate(shapes)]
    ways = [tensor(*shape, seed=seed + 9).double() for seed, shape in enumerate(shapes)]
    variant = variant_of(name, n)
    q, k, v = tensors
    problem = Problem(q, k, v, D**-0.5, head_index=tuple(range(H)), n_heads=H, aligned=variant.aligned)
    reason = variant.check(problem)
    if reason is not None:
        pytest.skip(reason)
    into = tensor(B, H, n, D, seed=20).double()

    def value(at: float, backend: str, *, grad: bool = False) -> Tensor:
        moved = [(x + at * way).requires_grad_(grad) for x, way in zip(tensors, ways, strict=True)]
        result = (attention(*moved, variant, backend=backend).output * into).sum()
        if not grad:
            return result
        slopes = torch.autograd.grad(result, moved)
        return torch.stack([(slope * way).sum() for slope, way in zip(slopes, ways, strict=True)]).sum()

    for backend in backends().values():
        if backend.differentiable and backend.refuses(problem, variant, {}) is None:
            wanted = (value(step, backend.name) - value(-step, backend.name)) / (2 * step)
            found = value(0.0, backend.name, grad=True)
            assert float((found - wanted).abs()) <= 1e-5 * max(1.0, float(wanted.abs())), backend.name
