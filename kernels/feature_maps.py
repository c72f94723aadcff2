"""Feature maps of linear attention: `exp(<q, k>)` is replaced by `<phi(q), phi(k)>`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.kernels.errors import InterpError


@dataclass(frozen=True, eq=False)
class FeatureMap(ABC):
    """A map of queries or keys, position by position, to numbers that are never negative (or whose products aren't)."""

    @abstractmethod
    def __call__(
        self, x: Float[Tensor, "batch head position d_head"], scale: float, heads: Sequence[int]
    ) -> Float[Tensor, "batch head position feature"]:
        """Features. `scale` is that of the product of queries and keys; `heads` says which heads of the model these are."""

    def log_bound(self, x: Float[Tensor, ...]) -> float:
        """Upper bound of the log of any feature, for maps that can overflow."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Elu(FeatureMap):
    """`elu(x) + 1` (Katharopoulos et al. 2020, arXiv 2006.16236, eq. 7)."""

    def __call__(
        self, x: Float[Tensor, "batch head position d_head"], scale: float, heads: Sequence[int]
    ) -> Float[Tensor, "batch head position feature"]:
        return F.elu(x) + 1


@dataclass(frozen=True, eq=False)
class Relu(FeatureMap):
    """`max(x, 0)`: a query without a positive channel has no features, and gives 0."""

    def __call__(
        self, x: Float[Tensor, "batch head position d_head"], scale: float, heads: Sequence[int]
    ) -> Float[Tensor, "batch head position feature"]:
        return x.relu()


@dataclass(frozen=True, eq=False)
class Exp(FeatureMap):
    """`exp(rate x)`, channel by channel. Rows keep their weights when a constant is added to all of a query's channels."""

    rate: float = 1.0

    def __call__(
        self, x: Float[Tensor, "batch head position d_head"], scale: float, heads: Sequence[int]
    ) -> Float[Tensor, "batch head position feature"]:
        return (self.rate * x).exp()

    def log_bound(self, x: Float[Tensor, ...]) -> float:
        return float((self.rate * x).max())


@dataclass(frozen=True, eq=False)
class Taylor(FeatureMap):
    """Powers whose products are `sum_{n <= order} s^n / n!` with `s = scale <q, k>` (Arora et al. 2024, arXiv
    2402.18668, section 4: order 2). `sum_n d_head^n` features.

    Raises:
        InterpError: E205, an odd order: weights could be negative, rows could sum to 0.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order < 2 or self.order % 2:
            raise InterpError("E205", f"a Taylor series of order {self.order}", fix="an even order: 2, 4, ...")

    def __call__(
        self, x: Float[Tensor, "batch head position d_head"], scale: float, heads: Sequence[int]
    ) -> Float[Tensor, "batch head position feature"]:
        x = x * math.sqrt(scale)
        powers = [torch.ones_like(x[..., :1])]
        for n in range(1, self.order + 1):
            powers.append((powers[-1][..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(n))
        return torch.cat(powers, dim=-1)

    def series(self, scores: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The products from scores, without features."""
        total, power = torch.ones_like(scores), torch.ones_like(scores)
        for n in range(1, self.order + 1):
            power = power * scores / n
            total = total + power
        return total


@dataclass(frozen=True, eq=False)
class Hedgehog(FeatureMap):
    """`softmax([y, -y])` with `y = rate M x`, over the doubled channels (Zhang et al. 2024, arXiv 2402.04347, section
    4.2; rate 2 as in flash-linear-attention).

    Args:
        matrix: M of all heads or of each, [head or 1, d_head, d_feature]: `y = rate x M`; the identity by default.
    """

    matrix: Float[Tensor, "head d_head d_feature"] | None = None
    rate: float = 2.0

    def __call__(
        self, x: Float[Tensor, "batch head position d_head"], scale: float, heads: Sequence[int]
    ) -> Float[Tensor, "batch head position feature"]:
        y = self.rate * (x if self.matrix is None else torch.matmul(x, self._of(heads, x)))
        return torch.cat([y, -y], dim=-1).softmax(-1)

    def _of(self, heads: Sequence[int], like: Tensor) -> Tensor:
        assert self.matrix is not None
        return (self.matrix if self.matrix.shape[0] == 1 else self.matrix[list(heads)]).to(like)
