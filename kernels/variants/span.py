"""Softmax attention whose window differs from head to head and grows with the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.headwise import PerHead, chosen, lowest, wrong_heads
from interp.kernels.variants.lengths import lengths
from interp.kernels.variants.rowwise import Span
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class HeadSpan(Softmax):
    """MoA: head h sees the first `sink_tokens` keys and the nearest `alpha_h + beta_h max(N - alpha_h, 0)` ones (rounded
    down), for a text of N tokens; where not causal, as many after the query too.

    Args:
        alpha: width of a short text, one for all heads or one a head.
        beta: how much of what a text has beyond that is seen.
        length: N; by default that of each document as it is, so that more text widens the window of earlier queries.

    Raises:
        InterpError: E205, alpha under 1, beta, sink_tokens or length under 0, as many values as there are no heads.
    """

    name: ClassVar[str] = "head-span"
    source: ClassVar[str] = "MoA: Fu et al. 2024, arXiv 2406.14909; at the granularity of tokens"

    alpha: PerHead = 128.0
    beta: PerHead = 0.0
    sink_tokens: int = 64
    length: int | None = None

    def __post_init__(self) -> None:
        negative = min(self.sink_tokens, 0 if self.length is None else self.length) < 0
        if negative or lowest(self.alpha) < 1 or lowest(self.beta) < 0:
            raise InterpError(
                "E205",
                f"alpha={self.alpha}, beta={self.beta}, sink_tokens={self.sink_tokens}, length={self.length}",
                fix="alpha=1 or more, the others 0 or more",
            )

    @property
    def looks_ahead(self) -> str:
        grows = self.length is None and bool((torch.as_tensor(self.beta) > 0).any())
        return super().looks_ahead or ("spans grow with the length of the whole text" if grows else "")

    def check(self, problem: Problem) -> str | None:
        return wrong_heads(problem, alpha=self.alpha, beta=self.beta)

    def width(self, view: View) -> Int[Tensor, "#batch #head #row"]:
        """How many keys the window of each head and query holds."""
        alpha, beta = chosen(self.alpha, view)[..., 0], chosen(self.beta, view)[..., 0]
        length: Float[Tensor, "#batch 1 #row"] = alpha.new_full((1, 1, 1), self.length or 0)
        if self.length is None:
            length = lengths(view.problem)[:, None, view.rows].to(alpha)
        exact = alpha + beta * (length - alpha).clamp(min=0)
        return (exact + 1e-6).floor().long()  # what rounding took from a whole number must not cost a key

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        near = (view.query - view.key).abs() < self.width(view)[..., None]
        return near | (view.key < self.sink_tokens)

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span:
        width = self.width(problem.view())
        return Span(low=at - width + 1, high=at + width, stop=at.new_full((1, 1, 1), self.sink_tokens))
