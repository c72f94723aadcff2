"""What every backend is: whether it takes a problem, and how it runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Statistic
from interp.kernels.variants.base import Variant

Asked = Mapping[str, Statistic]
"""Statistics by the names under which their answers are wanted."""


@dataclass
class Answer:
    """What a backend found; `lse` is None where the operator has none."""

    output: Float[Tensor, "batch head query_pos d_value"]
    lse: Float[Tensor, "batch head query_pos"] | None
    statistics: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Backend(Protocol):
    """A way of computing attention and statistics.

    `differentiable` says whether gradients flow through the output.
    """

    @property
    def name(self) -> str: ...

    @property
    def differentiable(self) -> bool: ...

    def refuses(self, problem: Problem, variant: Variant, asked: Asked) -> str | None:
        """Why it can't; None where it can."""
        ...

    def run(self, problem: Problem, variant: Variant, asked: Asked) -> Answer: ...
