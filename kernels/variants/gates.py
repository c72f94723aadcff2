"""Heads whose output is multiplied: by a gate a head, or a gate a token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Request
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.derived import Derived
from interp.kernels.variants.headwise import lowest


@dataclass(frozen=True, eq=False)
class _Gated(Derived):
    normalised: ClassVar[bool] = False

    @abstractmethod
    def given(self) -> Tensor:
        """Gates [head] or [#batch head query_pos], for all heads of the model."""

    def check(self, problem: Problem) -> str | None:
        shape, fits = list(self.given().shape), [problem.n_heads, problem.n_queries]
        if shape != fits[:1] and not (len(shape) == 3 and shape[0] in (1, problem.batch) and shape[1:] == fits):
            return f"gates {shape} fit neither [head] = {fits[:1]} nor [batch or 1, head, query_pos] = [1, {fits}]"
        return super().check(problem)

    def gates(self, problem: Problem) -> Float[Tensor, "#batch head #query_pos"]:
        """Gates of the problem's heads."""
        given = self.given().to(problem.q.device, problem.wide)
        heads = list(problem.head_index)
        return given[heads][None, :, None] if given.ndim == 1 else given[:, heads]

    def weights(self, view: View) -> Weights:
        gates = self.gates(view.problem)[:, view.heads]
        gates = (gates if gates.shape[2] == 1 else gates[:, :, view.rows])[..., None]
        inner = self.inner.weights(view)
        return Weights(gates * inner.values, inner.lse, None if inner.side is None else gates * inner.side)

    def request(self, problem: Problem) -> Request | str:
        if bool((self.gates(problem) == 0).any()):
            return "rows behind a gate of 0 have no pattern"
        return self.inner.request(problem)

    def factor(
        self, problem: Problem, lse: Float[Tensor, "batch head query_pos"]
    ) -> Float[Tensor, "batch head query_pos"]:
        inner = self.inner.factor(problem, lse)
        gates = self.gates(problem).to(lse)
        return gates.expand_as(lse) if inner is None else gates * inner


@dataclass(frozen=True, eq=False)
class HeadGates(_Gated):
    """Mixture of heads: `W_ij = g_h p_ij`, or `g_hi p_ij` with gates from a router.

    Args:
        values: the gates, one a head or [batch or 1, head, query_pos]; 0 for a head that is not routed to.

    Raises:
        InterpError: E205, gates that fit neither.
    """

    name: ClassVar[str] = "head-gates"
    source: ClassVar[str] = "MoH: Jin et al. 2024, arXiv 2410.11842; the router itself is the model's"

    values: Sequence[int | float] | Tensor = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "non_negative", self.non_negative and lowest(self.given()) >= 0)

    def given(self) -> Tensor:
        return _tensor(self.values)


@dataclass(frozen=True, eq=False)
class GatedOutput(_Gated):
    """A sigmoid gate a head and token on the output: `W_ij = sigmoid(logit_hi) p_ij`.

    Args:
        logits: [batch or 1, head, query_pos], or one a head.

    Raises:
        InterpError: E205, logits that fit neither.
    """

    name: ClassVar[str] = "gated-output"
    source: ClassVar[str] = "Bondarenko et al. 2023, arXiv 2306.12929, section 4.2"

    logits: Sequence[int | float] | Tensor = field(kw_only=True)

    def given(self) -> Tensor:
        return torch.sigmoid(_tensor(self.logits))


def _tensor(values: Sequence[int | float] | Tensor) -> Tensor:
    return values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64)
