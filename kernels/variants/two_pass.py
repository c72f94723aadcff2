"""Linear attention that first sums over the whole sequence."""

from __future__ import annotations

from dataclasses import dataclass

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.variants.linear import Linear


@dataclass(frozen=True, eq=False)
class TwoPass(Linear):
    """Linear attention that first sums over the whole sequence: it has no causal form.

    Raises:
        InterpError: E205, causal.
    """

    two_pass = True

    causal: bool = False

    def __post_init__(self) -> None:
        if self.causal:
            raise InterpError(
                "E205", f"{self.name} has no causal form: it sums over all keys first", fix="causal=False"
            )

    def check(self, problem: Problem) -> str | None:
        if problem.mask is not None:
            return f"{self.name} sums over all keys first, whatever a mask hides from a query"
        return super().check(problem)
