"""Softmax attention to every so-many-th of the nearest keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.rowwise import Span
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Dilated(Softmax):
    """Dilated sliding window: `size` keys at distances 0, d, 2 d, ... before the query; where not causal, after it too.

    Args:
        size: keys on each side, itself included.
        dilation: d; 1 is the plain window.

    Raises:
        InterpError: E205, a size or dilation under 1.
    """

    name: ClassVar[str] = "dilated"
    source: ClassVar[str] = "Beltagy et al. 2020, arXiv 2004.05150, section 3.1"

    size: int = 128
    dilation: int = 2

    def __post_init__(self) -> None:
        if self.size < 1 or self.dilation < 1:
            raise InterpError("E205", f"size={self.size}, dilation={self.dilation}", fix="1 or more each")

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        distance = view.query - view.key
        return (distance.abs() < self.size * self.dilation) & (distance % self.dilation == 0)

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span | str:
        if self.dilation > 1:
            return f"a window of dilation {self.dilation} is no interval of keys"
        return Span(low=at - self.size + 1, high=at + self.size)
