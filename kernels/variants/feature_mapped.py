"""Linear attention with feature maps: rows of `<phi(q_i), phi(k_j)>`, divided by their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.feature_maps import Elu, Exp, FeatureMap, Hedgehog, Relu, Taylor
from interp.kernels.pieces import Piece
from interp.kernels.problem import ALL, Problem
from interp.kernels.variants.linear import Linear


@dataclass(frozen=True, eq=False)
class LinearAttention(Linear):
    """`W_ij = <phi(q_i), phi(k_j)> / sum_j <phi(q_i), phi(k_j)>`; elu(x) + 1 by default. Rows sum to 1, or to 0 where no key
    shares a feature with the query.

    Args:
        map: phi, of queries and keys.
        key_map: that of keys, where it is another one.
    """

    name: ClassVar[str] = "linear-attention"
    source: ClassVar[str] = "Katharopoulos et al. 2020, arXiv 2006.16236, eq. 5 and 7"
    divides: ClassVar[bool] = True

    map: FeatureMap = Elu()
    key_map: FeatureMap | None = None

    @property
    def maps(self) -> tuple[FeatureMap, FeatureMap]:
        """Of queries, and of keys."""
        return self.map, self.map if self.key_map is None else self.key_map

    def check(self, problem: Problem) -> str | None:
        of_q, of_k = self.maps
        reach = of_q.log_bound(problem.q.detach()) + of_k.log_bound(problem.k.detach())
        reach += math.log(problem.n_keys * problem.q.shape[3])
        if reach > math.log(torch.finfo(problem.wide).max):
            return f"features overflow: their products may reach exp({reach:.0f}); scale q and k down"
        return super().check(problem)

    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        return self.maps[0](piece.q(heads, rows), piece.problem.scale, piece.problem.head_index[heads])

    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        return self.maps[1](piece.k(heads, keys), piece.problem.scale, piece.problem.head_index[heads])


@dataclass(frozen=True, eq=False)
class LinearRelu(LinearAttention):
    """`phi(x) = max(x, 0)`."""

    name: ClassVar[str] = "linear-relu"
    source: ClassVar[str] = "Cai et al. 2022, EfficientViT, arXiv 2205.14756, eq. 2"

    map: FeatureMap = Relu()


@dataclass(frozen=True, eq=False)
class LinearExp(LinearAttention):
    """`phi(x) = exp(x)`, channel by channel."""

    name: ClassVar[str] = "linear-exp"
    source: ClassVar[str] = "Nahshan et al. 2023, arXiv 2311.13541, eq. 8 with alpha = beta = 1"

    map: FeatureMap = Exp()


@dataclass(frozen=True, eq=False)
class LogNormal(LinearAttention):
    """`phi(q) = exp(alpha q)`, `phi(k) = exp(beta k)`: log weights that are normal as those of a softmax are.

    Args:
        alpha, beta: match them to the spread of a softmax's log weights; larger concentrates more.
    """

    name: ClassVar[str] = "log-normal"
    source: ClassVar[str] = "Nahshan et al. 2023, arXiv 2311.13541, eq. 8"

    alpha: float = 1.0
    beta: float = 1.0

    @property
    def maps(self) -> tuple[FeatureMap, FeatureMap]:
        return Exp(self.alpha), Exp(self.beta)


@dataclass(frozen=True, eq=False)
class TaylorAttention(LinearAttention):
    """`W_ij ~ 1 + s_ij + s_ij^2 / 2`: the exponential of a softmax as a Taylor series, global part of BASED."""

    name: ClassVar[str] = "taylor"
    source: ClassVar[str] = "Arora et al. 2024, arXiv 2402.18668, section 4"

    map: FeatureMap = Taylor()

    def check(self, problem: Problem) -> str | None:
        return super().check(problem) if problem.scale > 0 else f"a series in powers of sqrt({problem.scale:g})"

    def similarity(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row key"]:
        if not isinstance(self.map, Taylor) or self.key_map is not None:
            return super().similarity(piece, heads, rows)
        products = torch.matmul(piece.q(heads, rows), piece.k(heads, ALL).transpose(2, 3))
        return self.map.series(products * piece.problem.scale)


@dataclass(frozen=True, eq=False)
class HedgehogAttention(LinearAttention):
    """`phi(x) = softmax([2 M x, -2 M x])`: spiky and monotone, as a softmax's weights are."""

    name: ClassVar[str] = "hedgehog"
    source: ClassVar[str] = "Zhang et al. 2024, arXiv 2402.04347, section 4.2"

    map: FeatureMap = Hedgehog()
