"""Softmax attention with a learned bias for each distance, or for each bucket of distances."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.headwise import in_view, wrong_heads
from interp.kernels.variants.options import check_option
from interp.kernels.variants.softmax import Softmax

Buckets = Literal["clip", "T5"]


@dataclass(frozen=True, eq=False)
class RelativeBias(Softmax):
    """`s_ij = scale <q_i, k_j> + table[h, bucket(i - j)]`.

    T5 itself has scale 1, which is an argument of the call.

    Args:
        table: a bias for each head and bucket.
        buckets: 'clip' gives each distance its own bucket, those beyond the table the outermost one: column d is
            distance d where causal, `d - m` of `2 m + 1` columns where not. 'T5' has half its buckets for single
            distances, half for ranges that widen up to `max_distance`; where not causal, the upper half of the
            columns is for keys after the query.

    Raises:
        InterpError: E201, other buckets; E205, a table for another number of heads; an even number of columns for 'clip' where not causal;
            too few columns or too short a `max_distance` for 'T5'.
    """

    name: ClassVar[str] = "relative-bias"
    source: ClassVar[str] = "Shaw et al. 2018, arXiv 1803.02155 (clip); Raffel et al. 2020, arXiv 1910.10683 (T5)"

    table: Float[Tensor, "head bucket"] = field(kw_only=True)
    buckets: Buckets = "clip"
    max_distance: int = 128

    def __post_init__(self) -> None:
        check_option("buckets", self.buckets, Buckets)
        columns = self.table.shape[1]
        if self.buckets == "clip" and not self.causal and columns % 2 == 0:
            raise InterpError("E205", f"{columns} columns for distances on both sides", fix="2 m + 1 columns")
        side = columns if self.causal else columns // 2
        if self.buckets == "T5" and (side < 2 or (columns % 2 and not self.causal) or self.max_distance <= side // 2):
            raise InterpError("E205", f"T5 buckets from {columns} columns and max_distance={self.max_distance}")

    def check(self, problem: Problem) -> str | None:
        return wrong_heads(problem, table=self.table)

    def added(self, view: View) -> Float[Tensor, "#batch #head row key_pos"]:
        table, bucket = in_view(self.table, view), self.bucket(view.query - view.key).squeeze(1)
        return table[:, bucket].transpose(0, 1)

    def bucket(self, distance: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
        """Column of the table for distances i - j."""
        if self.buckets == "T5":
            return self._t5(distance)
        last = self.table.shape[1] - 1
        return distance.clamp(0, last) if self.causal else distance.clamp(-(last // 2), last // 2) + last // 2

    def _t5(self, distance: Tensor) -> Tensor:
        side = self.table.shape[1] if self.causal else self.table.shape[1] // 2
        after = 0 if self.causal else (distance < 0).long() * side
        away = distance.clamp(min=0) if self.causal else distance.abs()
        single = side // 2
        # float32 whatever the problem's dtype: trained tables rest on how it rounds
        wide = (away.clamp(min=1).float() / single).log() / math.log(self.max_distance / single) * (side - single)
        return after + torch.where(away < single, away, (single + wide.long()).clamp(max=side - 1))
