"""Attention without normalisation: each weight the positive part of its score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.problem import View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.rowwise import Rowwise


@dataclass(frozen=True, eq=False)
class Relu(Rowwise):
    """ReLA: `W_ij = max(s_ij, 0)`; rows have any mass, 0 where a head switches itself off, and no lse.

    The paper normalises and gates the output over all heads (RMS norm), which is the model's affair and no part of W.

    Args:
        divide: by the number of keys that the query sees.
    """

    name: ClassVar[str] = "relu"
    source: ClassVar[str] = "Zhang et al. 2021, arXiv 2104.07012; divided: Wortsman et al. 2023, arXiv 2309.08586"
    normalised: ClassVar[bool] = False

    divide: bool = False

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        weights = torch.relu(scores)
        return Weights(weights / allowed.sum(-1, keepdim=True).clamp(min=1) if self.divide else weights)
