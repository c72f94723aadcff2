"""Attention that is partly given by content and partly by place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.grid import coordinates, wrong_grid
from interp.kernels.variants.headwise import PerHead, in_view, wrong_heads
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class PositionContent(Softmax):
    """Gated positional self-attention:
    `W = (1 - sigmoid(gate_h)) softmax(scale <q_i, k_j>) + sigmoid(gate_h) softmax(<w_h, r_ij>)` with
    `r_ij = (x_j - x_i, y_j - y_i, (x_j - x_i)^2 + (y_j - y_i)^2)`. The lse is that of the content.

    Args:
        grid: rows and columns; tokens are its cells, row by row.
        gate: before the sigmoid, one for all heads or one a head.
        places: w, for each head; by default the paper's start, in which head h looks at one cell of a
            sqrt(heads) x sqrt(heads) neighbourhood, `strength (2 dx_h, 2 dy_h, -1)`.
        strength: how sharply.

    Raises:
        InterpError: E205, a grid that the tokens do not fill, a number of heads that is no square without `places`,
            as many values as there are no heads.
    """

    name: ClassVar[str] = "position-content"
    source: ClassVar[str] = "ConViT: d'Ascoli et al. 2021, arXiv 2103.10697, equations 7 and 5; start as in its code"

    causal: bool = False
    grid: tuple[int, int] = field(kw_only=True)
    gate: PerHead = 1.0
    places: Float[Tensor, "head 3"] | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if min(self.grid) < 1:
            raise InterpError("E205", f"a grid of {self.grid}", fix="1 row and column or more")

    def check(self, problem: Problem) -> str | None:
        if self.places is None and round(problem.n_heads**0.5) ** 2 != problem.n_heads:
            return f"{problem.n_heads} heads are no square of places to look at; hand over places"
        wrong = wrong_heads(problem, gate=self.gate, places=self.places)
        return wrong or wrong_grid(problem, self.grid)

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        content = super().row(scores, allowed, view)
        places = self._scores(view).masked_fill(~allowed, float("-inf"))
        position = Softmax(causal=self.causal).row(places, allowed, view)
        gate = torch.sigmoid(view.per_head(self.gate))
        return Weights((1 - gate) * content.values + gate * position.values, content.lse)

    def _scores(self, view: View) -> Float[Tensor, "batch head row key_pos"]:
        places = self.places
        if places is None:
            places = look_at_cells(view.problem.n_heads, self.strength)
        of_query, of_key = coordinates(view.query, self.grid), coordinates(view.key, self.grid)
        y, x = ((key - query).to(view.q.dtype) for key, query in zip(of_key, of_query, strict=True))
        across, down, square = in_view(places, view).T[:, :, None, None]
        return across * x + down * y + square * (x.square() + y.square())


def look_at_cells(n_heads: int, strength: float = 1.0) -> Float[Tensor, "head 3"]:
    """Weights with which head h looks at one cell of a square neighbourhood, from its top left on, column by column."""
    side = round(n_heads**0.5)
    centre = side // 2 if side % 2 else (side - 1) / 2
    offsets = [(head // side - centre, head % side - centre) for head in range(n_heads)]
    return strength * torch.tensor([[2 * across, 2 * down, -1.0] for across, down in offsets])
