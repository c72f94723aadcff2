"""What the trained toys share: a loop and a small attention layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import cos, pi

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


def fit(weights: Iterable[nn.Parameter], loss: Callable[[], Tensor], *, steps: int, rate: float) -> None:
    """Adam with a short rise and a cosine fall of the learning rate; gradients are clipped at norm 1.

    Args:
        weights: changed in place.
        loss: draws a batch and gives its loss; called once a step.
        steps: number of updates.
        rate: highest learning rate.
    """
    trained = list(weights)
    optimiser = torch.optim.Adam(trained, lr=rate, betas=(0.9, 0.98))
    rise = max(1, steps // 20)
    for step in range(steps):
        fall = (1 + cos(pi * step / steps)) / 2
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / rise) * fall
        optimiser.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()


def causal_mask(length: int) -> Bool[Tensor, "query key"]:
    """True where a key may be seen."""
    return torch.ones(length, length, dtype=torch.bool).tril()


class Attention(nn.Module):
    """Softmax attention without positions and without biases; a subclass changes how the pattern comes about.

    Args:
        width: of the residual stream.
        heads: number of heads, each of size width / heads.
        causal: whether later positions are hidden.
    """

    def __init__(self, width: int, heads: int = 1, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def split(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch head pos size"]:
        """Features apart by head."""
        return rearrange(x, "batch pos (head size) -> batch head pos size", head=self.heads)

    def scores(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch head query key"]:
        """Scaled dot products, hidden positions at minus infinity."""
        q, k = self.split(self.q(x)), self.split(self.k(x))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return scores.masked_fill(~causal_mask(x.shape[1]), -torch.inf) if self.causal else scores

    def pattern(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch head query key"]:
        """Attention weights; rows sum to one."""
        return self.scores(x).softmax(-1)

    def mix(
        self, pattern: Float[Tensor, "batch head query key"], x: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "batch pos width"]:
        """Output of all heads for given weights."""
        z = einsum(pattern, self.split(self.v(x)), "batch head query key, batch head key size -> batch head query size")
        return self.o(rearrange(z, "batch head pos size -> batch pos (head size)"))

    def forward(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        return self.mix(self.pattern(x), x)
