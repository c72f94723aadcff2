"""Softmax over keys that the content chooses."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.problem import View
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Selected(Softmax):
    """Softmax over some of the keys that causality and the problem leave. No gradient flows through the choice."""

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        with torch.no_grad():  # and a view of its own: what a view has computed once stays without gradients
            own = replace(view)
            return self.chosen(own, self.open(own))

    def open(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        """Keys that may be chosen."""
        return view.open & view.past if self.causal else view.open

    @abstractmethod
    def chosen(
        self, view: View, open: Bool[Tensor, "#batch #head row key_pos"]
    ) -> Bool[Tensor, "#batch #head row key_pos"]:
        """Which keys each query of the view attends to; what is not open is hidden anyway."""


def largest(scores: Float[Tensor, "batch head row candidate"], keep: int) -> Bool[Tensor, "batch head row candidate"]:
    """The `keep` largest of each row, but none at -inf."""
    best = scores.topk(min(keep, scores.shape[-1]), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True) & (scores > float("-inf"))


def covering(weights: Float[Tensor, "... candidate"], share: float) -> Bool[Tensor, "... candidate"]:
    """The fewest of each row, largest first, that hold a share of its sum; all of them for a share of 1."""
    if share >= 1:
        return torch.ones_like(weights, dtype=torch.bool)
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    enough = before < share * weights.sum(-1, keepdim=True)
    return torch.zeros_like(enough).scatter_(-1, order, enough)
