"""Linear attention with a sharpened feature map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.kernels.errors import InterpError
from interp.kernels.pieces import Piece, inside
from interp.kernels.problem import Problem
from interp.kernels.variants.linear import Linear

FLOOR = 1e-6
"""Added after the ReLU, as in the published code: no query is without features."""


@dataclass(frozen=True, eq=False)
class Focused(Linear):
    """`phi(x) = |x| x^p / |x^p|` on `x = (max(x, 0) + 1e-6) / softplus(spread)`; rows of `<phi(q_i), phi(k_j)>` divided by
    their sum. The norms run over the channels of all heads jointly; that of a query cancels in its row.

    The published layer has the non-causal form, adds a convolution of v, and a learned position to k; these are no part
    of the weights.

    Args:
        power: p; larger is sharper.
        spread: before the softplus, [head, d_head]; without it all channels count alike.

    Raises:
        InterpError: E205, a power that is not above 0.
    """

    name: ClassVar[str] = "focused"
    source: ClassVar[str] = "Han et al. 2023, FLatten, arXiv 2308.00442, eq. 6 and 7"
    divides: ClassVar[bool] = True

    power: float = 3.0
    spread: Float[Tensor, "head d_head"] | None = None

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise InterpError("E205", f"a power of {self.power:g}", fix="power=3, or anything above 0")

    def check(self, problem: Problem) -> str | None:
        if self.spread is not None:
            if problem.k.shape[1] != problem.n_heads:
                return "a spread is one a channel of q and k, and here query heads share keys"
            if tuple(self.spread.shape) != (problem.n_heads, problem.q.shape[3]):
                return f"spread is {list(self.spread.shape)}, and heads are {[problem.n_heads, problem.q.shape[3]]}"
        return super().check(problem)

    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        x = self._spread(piece.q(heads, rows), list(piece.problem.head_index[heads]))
        return (x / x.amax(-1, keepdim=True)) ** self.power

    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        problem = piece.problem
        k = problem.k[piece.batch, :, inside(piece.keys, keys)].to(problem.wide)
        k = self._spread(k, list(range(k.shape[1])))
        sharp = (k / k.amax((1, 3), keepdim=True)) ** self.power
        kept = (k.square().sum((1, 3), keepdim=True) / sharp.square().sum((1, 3), keepdim=True)).sqrt()
        return (sharp * kept)[:, problem.kv_index[heads]]

    def _spread(self, x: Tensor, heads: list[int]) -> Tensor:
        x = x.relu() + FLOOR
        return x if self.spread is None else x / F.softplus(self.spread.to(x))[heads][None, :, None]
