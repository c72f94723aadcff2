"""Softmax attention to the nearest keys alone."""

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
class Window(Softmax):
    """Sliding window: a query sees the `size` keys that end with itself; where not causal, as many after it too.

    Raises:
        InterpError: E205, a size under 1.
    """

    name: ClassVar[str] = "window"
    source: ClassVar[str] = "Beltagy et al. 2020, arXiv 2004.05150, section 3.1; size as in Mistral 7B"

    size: int = 128

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InterpError("E205", f"a window of {self.size} keys", fix="size=1 (itself alone) or more")

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        distance = view.query - view.key
        return (distance < self.size) & (distance > -self.size)

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span:
        return Span(low=at - self.size + 1, high=at + self.size)
