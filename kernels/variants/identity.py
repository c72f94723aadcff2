"""Attention on the way to looking at itself alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.derived import Derived
from interp.kernels.variants.headwise import PerHead, highest, lowest, wrong_heads


@dataclass(frozen=True, eq=False)
class IdentityInterpolation(Derived):
    """`W = (1 - g) p + g I`: a soft ablation of a head, 0 for the head as it is, 1 for its values passed on unmixed.

    A query's own key counts only where the problem lets it be seen.

    Args:
        strength: g, one for all heads or one a head.

    Raises:
        InterpError: E205, a strength outside 0 to 1, as many as there are no heads, queries that stand at no key.
    """

    name: ClassVar[str] = "identity-interpolation"
    source: ClassVar[str] = "SoftPAG: Fine-Grained Perturbation Guidance via Attention Head Selection"

    strength: PerHead = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (lowest(self.strength) >= 0 and highest(self.strength) <= 1):
            raise InterpError("E205", f"strength={self.strength}", fix="from 0, the head itself, to 1, the identity")

    def check(self, problem: Problem) -> str | None:
        if problem.n_queries > problem.n_keys or not self.aligned:
            return "queries stand at no key"
        return wrong_heads(problem, strength=self.strength) or super().check(problem)

    def weights(self, view: View) -> Weights:
        strength, inner = view.per_head(self.strength), self.inner.weights(view)
        values = (1 - strength) * inner.values + strength * _itself(view)
        return Weights(values, inner.lse, None if inner.side is None else (1 - strength) * inner.side)


def _itself(view: View) -> Float[Tensor, "#batch #head row key_pos"]:
    """1 where the key is the query's own."""
    problem = view.problem
    index = torch.arange(problem.n_keys, device=problem.q.device)
    own = index[problem.n_keys - problem.n_queries :][view.rows, None] == index
    return (own & view.open).to(view.q.dtype)
