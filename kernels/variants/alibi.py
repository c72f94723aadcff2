"""Softmax attention with a penalty that grows with distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.kernels.problem import Problem, View
from interp.kernels.variants.headwise import PerHead, wrong_heads
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Alibi(Softmax):
    """`s_ij = scale <q_i, k_j> - m_h |i - j|`.

    Args:
        slope: m_h, positive, one for all heads or one a head; by default the paper's geometric sequence.

    Raises:
        InterpError: E205, as many slopes as there are no heads.
    """

    name: ClassVar[str] = "alibi"
    source: ClassVar[str] = "Press et al. 2022, arXiv 2108.12409, section 3"

    slope: PerHead | None = None

    def check(self, problem: Problem) -> str | None:
        return wrong_heads(problem, slope=self.slope)

    def slopes(self, problem: Problem) -> Float[Tensor, " head"]:
        given = alibi_slopes(problem.n_heads) if self.slope is None else self.slope
        return problem.view().per_head(given).flatten().expand(problem.heads)

    def added(self, view: View) -> Float[Tensor, "#batch #head row key_pos"]:
        distance = (view.query - view.key).abs().to(view.q.dtype)
        return -self.slopes(view.problem)[view.heads, None, None] * distance


def alibi_slopes(n_heads: int) -> list[float]:
    """The paper's slopes: from `2^(-8/n)`, each that power of the one before; where n is no power of two, those of the
    next lower power, then every other one of twice as many."""
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return slopes + [2 ** (-4 * (2 * head + 1) / power) for head in range(n_heads - power)]
