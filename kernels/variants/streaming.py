"""Softmax attention to the first keys and the nearest ones."""

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
class Streaming(Softmax):
    """Sink + recent: a query sees the first `sink_tokens` keys of its document and the `recent` keys that end with
    itself; where not causal, as many after it too.

    Positions stay those of the whole text; a StreamingLLM cache numbers its rotary positions anew, which is a matter
    of how q and k were made.

    Raises:
        InterpError: E205, sink_tokens under 0 or recent under 1.
    """

    name: ClassVar[str] = "streaming"
    source: ClassVar[str] = "Xiao et al. 2023, arXiv 2309.17453, section 3; DuoAttention, arXiv 2410.10819"

    sink_tokens: int = 4
    recent: int = 128

    def __post_init__(self) -> None:
        if self.sink_tokens < 0 or self.recent < 1:
            raise InterpError(
                "E205",
                f"sink_tokens={self.sink_tokens}, recent={self.recent}",
                fix="0 sinks or more; recent=1 (itself alone) or more",
            )

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        return (view.key < self.sink_tokens) | ((view.query - view.key).abs() < self.recent)

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span:
        return Span(low=at - self.recent + 1, high=at + self.recent, stop=at.new_full((1, 1, 1), self.sink_tokens))
