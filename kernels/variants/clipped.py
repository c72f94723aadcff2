"""Softmax stretched and clipped, so that a head can do nothing at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class Clipped(Softmax):
    """`W_ij = clip((eta - gamma) p_ij + gamma, 0, 1)`: weights of at most `-gamma / (eta - gamma)` become 0.

    Rows are not made to sum to 1 again. The lse is that of the softmax.

    Args:
        gamma: 0 or under; -0.03 where neither it nor alpha is given. A fixed one clips everything in long texts.
        eta: 1 or more.
        alpha: makes `gamma = -alpha / T`.
        length: T; by default the number of keys that the query sees.

    Raises:
        InterpError: E205, gamma above 0, eta under 1, alpha or length under 0, gamma and alpha both.
    """

    name: ClassVar[str] = "clipped-softmax"
    source: ClassVar[str] = "Bondarenko et al. 2023, arXiv 2306.12929, equation 4; -alpha / T: section 5.2, from memory"
    normalised: ClassVar[bool] = False
    two_pass: ClassVar[bool] = True

    gamma: float | None = None
    eta: float = 1.0
    alpha: float | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.gamma is not None and self.alpha is not None:
            raise InterpError("E205", "gamma and alpha both", fix="alpha makes a gamma that falls with the length")
        if (
            (self.gamma or 0.0) > 0
            or self.eta < 1
            or (self.alpha or 0.0) < 0
            or (self.length is not None and self.length < 1)
        ):
            raise InterpError(
                "E205",
                f"gamma={self.gamma}, eta={self.eta}, alpha={self.alpha}, length={self.length}",
                fix="gamma <= 0, eta >= 1, alpha >= 0, length >= 1",
            )

    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        plain = super().row(scores, allowed, view)
        gamma: float | Tensor = -0.03 if self.gamma is None else self.gamma
        if self.alpha is not None:
            count = self.length or allowed.sum(-1, keepdim=True).clamp(min=1).to(scores)
            gamma = -self.alpha / count
        return plain._replace(values=((self.eta - gamma) * plain.values + gamma).clip(0, 1))
