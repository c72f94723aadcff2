"""Softmax attention with extra keys and values that a head has learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Request
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.headwise import in_view
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class KeyValueBias(Softmax):
    """Key and value biases: every query sees `extra` more keys k'_m with values v'_m, whatever the mask.

    The weights are those of the real keys, rows of mass below 1; what the extra values add to the output,
    `sum_m w_im v'_m`, is the declared side term. Statistics speak of the real keys alone, and so does the lse.

    Args:
        keys, values: k' and v', for each head of the model.

    Raises:
        InterpError: E205, other heads or widths than those of the problem.
    """

    name: ClassVar[str] = "key-value-bias"
    source: ClassVar[str] = "Sun et al. 2024, Massive Activations, arXiv 2402.17762, section 4.3, explicit biases"
    normalised: ClassVar[bool] = False

    keys: Float[Tensor, "head extra d_head"] = field(kw_only=True)
    values: Float[Tensor, "head extra d_value"] = field(kw_only=True)

    def check(self, problem: Problem) -> str | None:
        given = [*self.keys.shape[::2], *self.values.shape[::2]]
        wanted = [problem.n_heads, problem.q.shape[3], problem.n_heads, problem.v.shape[3]]
        if given == wanted and self.keys.shape[1] == self.values.shape[1] > 0:
            return None
        return f"keys {list(self.keys.shape)} and values {list(self.values.shape)} do not fit the problem's heads"

    def weights(self, view: View) -> Weights:
        real = super().weights(view)
        assert real.lse is not None, "a softmax has one"
        others = real.lse
        if self.sink is not None:
            others = torch.logaddexp(others, view.per_head(self.sink).squeeze(-1))
        extra = self._scores(view)
        odds = others - extra.logsumexp(-1)
        there = view.problem.real_queries[:, None, view.rows]
        shares = extra.softmax(-1) * (torch.sigmoid(-odds) * there)[..., None]
        return Weights(
            real.values * torch.sigmoid(odds)[..., None], real.lse, torch.matmul(shares, in_view(self.values, view))
        )

    def _scores(self, view: View) -> Float[Tensor, "batch head row extra"]:
        scores = torch.matmul(view.q, in_view(self.keys, view).transpose(1, 2)) * view.problem.scale
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def request(self, problem: Problem) -> Request | str:
        return "its extra keys are none of the problem's"
