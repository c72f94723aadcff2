"""Linear attention that forgets: a constant a head, or gates that each token sets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.pieces import Piece
from interp.kernels.problem import Problem
from interp.kernels.variants.linear import Linear, of_keys, picked


@dataclass(frozen=True, eq=False)
class PlainLinear(Linear):
    """`W_ij = scale <q_i, k_j>`: no feature map, no divisor. Weights of either sign, rows of any sum.

    Raises:
        InterpError: E205, not causal and forgetful: the past decays, not the future.
    """

    name: ClassVar[str] = "plain-linear"
    source: ClassVar[str] = "Katharopoulos et al. 2020, arXiv 2006.16236, eq. 4 without feature map and divisor"
    normalised = False
    non_negative = False

    def __post_init__(self) -> None:
        if not self.causal and type(self).log_decay is not Linear.log_decay:
            raise InterpError("E205", f"{self.name} without causality: only a past can decay", fix="causal=True")

    def left(self, piece: Piece, heads: slice, rows: slice) -> Float[Tensor, "batch head row feature"]:
        return piece.q(heads, rows) * piece.problem.scale

    def right(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "batch head key feature"]:
        return piece.k(heads, keys)


@dataclass(frozen=True, eq=False)
class ConstantDecay(PlainLinear):
    """`W_ij = scale <q_i, k_j> exp(g_h (i - j))`, with one log decay g_h a head."""

    @abstractmethod
    def rates(self, n_heads: int) -> Float[Tensor, " head"]:
        """Log decay of every head of the model, float64."""

    def log_decay(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "#batch head key #feature"]:
        problem = piece.problem
        rates = problem.once((self, "rates"), lambda p: self.rates(p.n_heads).to(p.q.device, p.wide))
        length = len(range(*keys.indices(piece.n_keys)))
        return rates[list(problem.head_index[heads])][None, :, None, None].expand(1, -1, length, 1)


@dataclass(frozen=True, eq=False)
class Retention(ConstantDecay):
    """`W_ij = scale <q_i, k_j> gamma_h^(i - j)`.

    Args:
        gamma: one for all heads or one for each; `1 - 2^(-5 - h)` by default.

    Raises:
        InterpError: E205, a gamma outside (0, 1], or not causal.
    """

    name: ClassVar[str] = "retention"
    source: ClassVar[str] = "Sun et al. 2023, RetNet, arXiv 2307.08621, eq. 5 and 8"

    gamma: float | Sequence[float] | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = torch.as_tensor(1.0 if self.gamma is None else self.gamma)
        if not bool(((given > 0) & (given <= 1)).all()):
            raise InterpError(
                "E205", f"gamma from {float(given.min()):g} to {float(given.max()):g}", fix="0 < gamma <= 1"
            )

    def check(self, problem: Problem) -> str | None:
        given = 1 if self.gamma is None or isinstance(self.gamma, float | int) else len(self.gamma)
        if given not in (1, problem.n_heads):
            return f"{given} values of gamma for {problem.n_heads} heads"
        return super().check(problem)

    def rates(self, n_heads: int) -> Float[Tensor, " head"]:
        if self.gamma is None:
            return torch.log1p(-(2.0 ** (-5.0 - torch.arange(n_heads, dtype=torch.float64))))
        return torch.as_tensor(self.gamma, dtype=torch.float64).log().expand(n_heads)


@dataclass(frozen=True, eq=False)
class Lightning(ConstantDecay):
    """`W_ij = scale <q_i, k_j> exp(g_h (i - j))` with `g_h = -(8 h / H) (1 - layer / n_layers)`: head 0 forgets nothing.

    Raises:
        InterpError: E205, a layer that is none of the `n_layers`, or not causal.
    """

    name: ClassVar[str] = "lightning"
    source: ClassVar[str] = "Qin et al. 2024, arXiv 2401.04658; decay as in flash-linear-attention"

    layer: int = 0
    n_layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.layer < self.n_layers:
            raise InterpError("E205", f"layer {self.layer} of {self.n_layers}", fix="count layers from 0")

    def rates(self, n_heads: int) -> Float[Tensor, " head"]:
        steepness = 8 / n_heads * (1 - self.layer / self.n_layers)
        return -steepness * torch.arange(n_heads, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class GatedLinear(PlainLinear):
    """`W_ij = scale sum_d q_id k_jd exp(G_id - G_jd)`, `G_i = g_1 + ... + g_i`: each token says how much of every key
    channel is kept when it comes.

    Args:
        gates: log gates g, none above 0, [batch or 1, kv_head or head, key_pos, d_head or 1]; 1 for one gate a head.

    Raises:
        InterpError: E205, not causal.
    """

    name: ClassVar[str] = "gated-linear"
    source: ClassVar[str] = "Yang et al. 2024, GLA, arXiv 2312.06635, eq. 3 and 4"

    gates: Float[Tensor, "batch head key_pos channel"] = field(kw_only=True)

    def check(self, problem: Problem) -> str | None:
        kv_heads = problem.k.shape[1]
        given, wanted = tuple(self.gates.shape), (problem.batch, problem.n_heads, problem.n_keys, problem.q.shape[3])
        fits = given[0] in (1, wanted[0]) and given[1] in (1, kv_heads, wanted[1])
        if not fits or given[2] != wanted[2] or given[3] not in (1, wanted[3]):
            return f"gates are {list(given)}, and the problem {list(wanted)} ({kv_heads} kv heads)"
        if not bool((self.gates <= 0).all()) or not bool(self.gates.isfinite().all()):
            return (
                f"log gates run from {float(self.gates.min()):g} to {float(self.gates.max()):g}: finite, none above 0"
            )
        return super().check(problem)

    def log_decay(self, piece: Piece, heads: slice, keys: slice) -> Float[Tensor, "#batch head key #feature"]:
        return picked(of_keys(self.gates, piece, keys), piece, heads).expand(
            -1, len(piece.problem.head_index[heads]), -1, -1
        )
