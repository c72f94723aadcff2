"""Softmax attention that is causal after a prefix whose tokens all see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.rowwise import Span
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Prefix(Softmax):
    """Prefix language model: a query sees the first `prefix` keys of its document, and those not after itself.

    Args:
        prefix: number of tokens, one for all prompts or one a prompt.
        causal: True makes the prefix causal too, which is plain causal attention.

    Raises:
        InterpError: E205, a prefix under 0, or as many of them as there are no prompts.
    """

    name: ClassVar[str] = "prefix-lm"
    source: ClassVar[str] = "Raffel et al. 2020, arXiv 1910.10683, section 3.2.1"

    causal: bool = False
    prefix: int | Sequence[int] | Int[Tensor, " batch"] = field(kw_only=True)

    def __post_init__(self) -> None:
        if bool((torch.as_tensor(self.prefix) < 0).any()):
            raise InterpError("E205", f"prefix={self.prefix}", fix="0 tokens or more")

    @property
    def looks_ahead(self) -> str:
        return "" if self.causal else "tokens of the prefix see all of it"

    def check(self, problem: Problem) -> str | None:
        given = torch.as_tensor(self.prefix)
        if given.ndim and given.numel() != problem.batch:
            return f"{given.numel()} prefixes for {problem.batch} prompts"
        return None

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        return view.past | (view.key < self._length(view.problem)[..., None])

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span:
        return Span(high=at + 1, stop=self._length(problem))

    def _length(self, problem: Problem) -> Int[Tensor, "#batch 1 1"]:
        return torch.as_tensor(self.prefix, device=problem.q.device).reshape(-1, 1, 1)
