"""Gradients by what enters the first layer: input times gradient, and gradients along a path. No attention is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.maps.gradients.base import GradientMap
from interp.maps.look import Look

if TYPE_CHECKING:
    from interp.circuits.question import Question
    from interp.hooks.model import HookedModel

PRODUCT = "batch pos d_model, batch pos d_model -> batch pos"


@dataclass(frozen=True, eq=False)
class InputGradient(GradientMap):
    """`<x, dM/dx>` with x the stream that enters the first layer; positions that a model adds there are part of it."""

    name: ClassVar[str] = "input-gradient"
    source: ClassVar[str] = "Shrikumar et al. 2016, arXiv 1605.01713, section 3"
    says: ClassVar[str] = "the metric falls, to first order, when its embedding is turned down"
    signed: ClassVar[bool] = True

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        return einsum(look.stream.double(), look.stream_slope, PRODUCT)


@dataclass(frozen=True, eq=False)
class IntegratedGradients(GradientMap):
    """`<x - x', mean of dM/dx from x' to x>`: numbers of a prompt sum to M(x) - M(x'), up to the steps.

    x is the stream that enters the first layer, x' that of neutral tokens at every position, the read one included. (Zero
    is no baseline behind a norm, which takes every length for 1: the metric jumps at 0, and no steps find the sum.) The
    path is straight, and its mean is taken by Gauss and Legendre.

    Attributes:
        steps: of the path.

    Raises:
        InterpError: E205, fewer than 1 step.
    """

    name: ClassVar[str] = "integrated-gradients"
    source: ClassVar[str] = "Sundararajan et al. 2017, arXiv 1703.01365, eq. 1"
    says: ClassVar[str] = "on the way from a neutral prompt to this one, its embedding raises the metric"
    signed: ClassVar[bool] = True

    steps: int = 16

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InterpError("E205", f"{self.steps} steps", where=f"method {self.name}", fix="at least 1")

    def check(self, model: HookedModel, question: Question) -> None:
        if question.metric.name == "top1":
            super().check(model, question)

    def measure(self, look: Look) -> Float[Tensor, "batch pos"]:
        start = look.neutral_stream
        way = look.stream - start
        places, weights = np.polynomial.legendre.leggauss(self.steps)
        slope = torch.zeros_like(way, dtype=torch.float64)
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            slope += weight * look.slope_at(start + float(place) * way).double()
        return einsum(way.double(), slope, PRODUCT)
