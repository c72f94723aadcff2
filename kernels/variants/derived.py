"""Operators made from the weights of another one."""

from __future__ import annotations

from dataclasses import dataclass

from interp.kernels.problem import Problem
from interp.kernels.variants.base import Variant
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Derived(Variant):
    """An operator on top of another one.

    Args:
        base: whose weights it starts from, by default a softmax. Whether it is causal is the base's affair.
    """

    base: Variant | None = None

    def __post_init__(self) -> None:
        inner = Softmax(causal=self.causal) if self.base is None else self.base
        inherited = {
            "base": inner,
            "causal": inner.causal,
            "aligned": inner.aligned,
            "takes_bias": inner.takes_bias,
            "normalised": self.normalised and inner.normalised,
            "non_negative": self.non_negative and inner.non_negative,
            "two_pass": self.two_pass or inner.two_pass,
        }
        for name, value in inherited.items():
            object.__setattr__(self, name, value)  # the record is frozen from here on

    @property
    def inner(self) -> Variant:
        """The base, by default a softmax."""
        assert self.base is not None, "set in __post_init__"
        return self.base

    @property
    def looks_ahead(self) -> str:
        return self.inner.looks_ahead

    def check(self, problem: Problem) -> str | None:
        return self.inner.check(problem)
