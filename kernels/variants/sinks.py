"""Softmax attention that may leave mass unspent, under names of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.variants.headwise import wrong_heads
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class OffByOne(Softmax):
    """Softmax-off-by-one: `p_ij = exp(s_ij) / (1 + sum_j exp(s_ij))`, rows of mass `sigmoid(lse)`.

    Raises:
        InterpError: E205, another sink than the logit 0 that makes the 1.
    """

    name: ClassVar[str] = "off-by-one"
    source: ClassVar[str] = "Miller 2023, Attention is off by one"
    normalised: ClassVar[bool] = False

    sink: float | Sequence[float] | Tensor | None = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.sink, int | float) or self.sink != 0:
            raise InterpError("E205", f"off-by-one with sink={self.sink}", fix="SinkLogit takes any logit")


@dataclass(frozen=True, eq=False)
class SinkLogit(Softmax):
    """A learned logit that takes part in the softmax and holds no value:
    `p_ij = exp(s_ij) / (exp(sink_h) + sum_j exp(s_ij))`.

    Args:
        sink: one logit for all heads, or one a head.

    Raises:
        InterpError: E205, as many logits as there are no heads, or none at all.
    """

    name: ClassVar[str] = "sink-logit"
    source: ClassVar[str] = "gpt-oss, arXiv 2508.10925, section 2; Xiao et al. 2023, arXiv 2309.17453, equation 2"
    normalised: ClassVar[bool] = False

    sink: float | Sequence[float] | Tensor | None = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.sink is None:
            raise InterpError("E205", "no logit", fix="a number, or one a head; 'softmax' has none")

    def check(self, problem: Problem) -> str | None:
        return wrong_heads(problem, sink=self.sink)
