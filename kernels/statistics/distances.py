"""How far back attention reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Needs, Part, Reader, RowStatistic, blank_padding, there
from interp.kernels.statistics.masses import indices_are_positions
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class MeanDistance(RowStatistic):
    """Mean distance from a query back to what it attends to, in tokens; keys after it count negative."""

    name: ClassVar[str] = "mean-distance"
    formula: ClassVar[str] = "sum_j p_ij (i - j)"
    low: ClassVar[float] = float("-inf")

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        return (part.pattern * (part.view.query - part.view.key)).sum(-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        index = needs.functional(problem.key_at[:, None].to(problem.wide))

        def read(answer: Primitives) -> Tensor:
            mean = problem.query_at[:, None] - there(answer.functionals)[..., index]
            return blank_padding(mean.masked_fill(answer.lse == float("-inf"), 0.0), problem)

        return read


@dataclass(frozen=True, eq=False)
class ClippedDistance(RowStatistic):
    """Windowed average attention distance (WAAD): far keys all count as `window` tokens away.

    From 'Attention Illuminates LLM Reasoning', where the window is 10.

    Raises:
        InterpError: E205, a window under 1.
    """

    name: ClassVar[str] = "clipped-distance"
    formula: ClassVar[str] = "sum_j p_ij min(i - j, window)"
    low: ClassVar[float] = float("-inf")

    window: int = 10

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InterpError("E205", f"a window of {self.window} tokens", fix="window=1 or more")

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        return (part.pattern * (part.view.query - part.view.key).clamp(max=self.window)).sum(-1)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader | None:
        if variant.looks_ahead or not indices_are_positions(problem):
            return None
        length = min(self.window, problem.n_keys)
        index = needs.band(self.window - torch.arange(length, device=problem.q.device, dtype=problem.wide))

        def read(answer: Primitives) -> Tensor:
            """`window` less what nearer keys are nearer."""
            clipped = self.window - there(answer.band)[..., index]
            return blank_padding(clipped.masked_fill(answer.lse == float("-inf"), 0.0), problem)

        return read
