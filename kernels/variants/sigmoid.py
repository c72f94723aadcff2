"""Attention without normalisation: each weight a sigmoid of its own score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.backends.primitives import Request
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.rowwise import Rowwise


@dataclass(frozen=True, eq=False)
class Sigmoid(Rowwise):
    """`W_ij = sigmoid(s_ij + bias)`; rows have any mass, and no lse.

    Args:
        bias: '-log n', with n the keys that the query sees, or a number for all queries (the paper's is the logarithm
            of one over the length of the text, which under-weights early rows where causal).

    Raises:
        InterpError: E201, another word.
    """

    name: ClassVar[str] = "sigmoid"
    source: ClassVar[str] = "Ramapuram et al. 2024, arXiv 2409.04431, equation 3"
    normalised: ClassVar[bool] = False

    bias: float | Literal["-log n"] = "-log n"

    def __post_init__(self) -> None:
        if isinstance(self.bias, str) and self.bias != "-log n":
            raise InterpError("E201", f"bias has no option {self.bias!r}", fix="'-log n', or a number")

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        return Weights(torch.sigmoid(scores + self.shift(allowed.sum(-1, keepdim=True).to(scores))))

    def shift(self, n: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """The bias of queries that see n keys."""
        return torch.full_like(n, self.bias) if isinstance(self.bias, int | float) else -n.clamp(min=1).log()

    def request(self, problem: Problem) -> Request | str:
        rows = self.rows(problem)
        if isinstance(rows, str):
            return rows
        shift = self.shift((rows.high - rows.low).to(problem.wide))
        return Request(
            problem.q, problem.k, problem.v, problem.scale, rows, softcap=self.softcap, shift=shift, rule="sigmoid"
        )
