"""Softmax attention: causal, full or cross, with softcap and a sink logit where they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.backends.primitives import Request
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.rowwise import Rowwise


@dataclass(frozen=True, eq=False)
class Softmax(Rowwise):
    """`p_ij = exp(s_ij) / sum_j exp(s_ij)` over the keys that a query sees.

    Args:
        sink: a logit with which a head may leave mass unspent, one for all heads or one a head:
            `p_ij = exp(s_ij) / (exp(sink) + sum_j exp(s_ij))`. Rows then sum to `sigmoid(lse - sink)`; 0 gives
            softmax-off-by-one (Miller 2023), learned ones are those of gpt-oss.
    """

    name: ClassVar[str] = "softmax"
    source: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762, eq. 1"

    sink: float | Sequence[float] | Tensor | None = None

    @property
    def normalised(self) -> bool:  # type: ignore[override]
        """Rows sum to 1 where no sink takes part of them."""
        return self.sink is None

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        lse = scores.logsumexp(-1)
        total = lse if self.sink is None else torch.logaddexp(lse, view.per_head(self.sink).squeeze(-1))
        finite = total.masked_fill(total == float("-inf"), 0.0)  # rows without a key: exp(-inf - 0) = 0
        return Weights((scores - finite[..., None]).exp(), lse)

    def slopes(self, problem: Problem) -> Float[Tensor, " head"] | None:
        """ALiBi's slopes, for fused kernels."""
        return None

    def request(self, problem: Problem) -> Request | str:
        rows = self.rows(problem)
        if isinstance(rows, str):
            return rows
        if type(self).added is not Rowwise.added and self.slopes(problem) is None:
            return f"what {self.name} adds to scores is no slope"
        if type(self).row is not Softmax.row:
            return f"rows of {self.name} are not a softmax"
        return Request(
            problem.q, problem.k, problem.v, problem.scale, rows, softcap=self.softcap, slopes=self.slopes(problem)
        )

    def factor(
        self, problem: Problem, lse: Float[Tensor, "batch head query_pos"]
    ) -> Float[Tensor, "batch head query_pos"] | None:
        if self.sink is None:
            return None
        return torch.sigmoid(lse - problem.view().per_head(self.sink).squeeze(-1))


@dataclass(frozen=True, eq=False)
class Full(Softmax):
    """Softmax attention in which every query sees every key: encoders, vision towers, cross attention."""

    name: ClassVar[str] = "full"

    causal: bool = False
