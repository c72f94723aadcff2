"""Which backend runs a problem: the one that was named, or the first that takes it, and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from interp.kernels.backends import lse_algebra
from interp.kernels.backends.base import Asked, Backend
from interp.kernels.backends.blockwise import Blockwise
from interp.kernels.backends.chunked import Chunked
from interp.kernels.backends.cpp import kernel as cpp
from interp.kernels.backends.flex import Flex
from interp.kernels.backends.fused import Fused
from interp.kernels.backends.recurrent import Recurrent
from interp.kernels.backends.rows import Eager
from interp.kernels.backends.triton import kernel as triton
from interp.kernels.errors import InterpError, suggest
from interp.kernels.problem import Problem
from interp.kernels.variants.base import Variant

SMALL = 2**18
"""Cells of all patterns (1 MiB in float32) up to which everything at once is fastest."""


AUTO = {"cpu": ("chunked", "cpp", "blockwise"), "cuda": ("chunked", "triton", "blockwise")}
"""The backends that `auto` asks on a device, fastest first; blockwise takes everything but gradients, eager those too."""


@cache
def backends() -> dict[str, Backend]:
    """All backends by name."""
    every: list[Backend] = [
        Chunked(),
        Fused("cpp", cpp),
        Fused("triton", triton),
        Blockwise(),
        Fused("lse_algebra", lse_algebra),
        Eager(),
        Recurrent(),
        Flex(),
    ]
    return {backend.name: backend for backend in every}


@dataclass(frozen=True)
class Choice:
    """Which backend ran which heads, and why it and none before it.

    Attributes:
        heads: labels on the head axis of q.
        reasons: one line for each backend that was asked before.
    """

    heads: tuple[int, ...]
    variant: str
    backend: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.variant}: {self.backend}" + (f" ({'; '.join(self.reasons)})" if self.reasons else "")


def choose(name: str, problem: Problem, variant: Variant, asked: Asked) -> tuple[Backend, tuple[str, ...]]:
    """The backend, and why not those before it.

    Raises:
        InterpError: E201 unknown name; E205 a backend that was named and can't run this: it never falls back.
    """
    every = backends()
    if name != "auto":
        if name not in every:
            raise InterpError("E201", f"no backend is called {name!r}", fix=suggest(name, ["auto", *every]))
        reason = _refusal(every[name], problem, variant, asked)
        if reason:
            raise InterpError(
                "E205",
                f"backend {name!r} can't run this: {reason}",
                where=variant.name,
                fix="backend='auto' takes the fastest that can, and says which",
            )
        return every[name], ("named",)
    if problem.batch * problem.heads * problem.n_queries * problem.n_keys <= SMALL:
        return every["eager"], (f"at most {SMALL} cells: everything at once",)
    reasons: list[str] = []
    for candidate in AUTO.get(problem.q.device.type, ("chunked", "blockwise")):
        reason = _refusal(every[candidate], problem, variant, asked)
        if reason is None:
            return every[candidate], tuple(reasons)
        reasons.append(f"not {candidate}: {reason}")
    return every["eager"], tuple(reasons)


def _refusal(backend: Backend, problem: Problem, variant: Variant, asked: Asked) -> str | None:
    if (
        not backend.differentiable
        and torch.is_grad_enabled()
        and (problem.q.requires_grad or problem.k.requires_grad or problem.v.requires_grad)
    ):
        return "it gives no gradients"
    return backend.refuses(problem, variant, asked)
