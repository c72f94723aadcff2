"""Variance encodes position: a causal layer knows how far it has come before it has learnt anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.zoo.toys.base import Finding, Toy


@dataclass(frozen=True)
class VariancePosition(Toy):
    """A causal attention layer with fresh random weights and no position embedding, on independent random inputs.

    Derived: the output at position t is a weighted mean of t independent values of variance s^2. Where attention is
    uniform its variance is s^2 / t. Where logits have standard deviation r, it is s^2 (A + (1 - A) r^2 / d) with
    A = E[sum_j a_tj^2] and d the width: attention leans towards the inputs that raise the logit, and the mean of
    those is not zero (a tilted Gaussian), which leaves a floor. The logarithm of the output's mean square is the one
    feature of the probe. The control is the same layer without the causal mask, where every row has equal length.

    Measured, seeds 0 to 4: deviations 0.025 to 0.047 and 0.033 to 0.048; slope -0.964 to -0.948; R^2 0.917 to 0.926.
    Control: slope within 0.002 of zero, R^2 at most 0.0001.

    Attributes:
        sequences: half fit the probe, half test it.
        length: positions.
        width: size of the residual stream and of the one head.
        spread: standard deviation of the attention logits; 0.3 is what weights of 0.02 give at width 768.
    """

    name: ClassVar[str] = "variance-position"
    source: ClassVar[str] = (
        "Chi et al. 2023, Latent Positional Information is in the Self-Attention Variance of Transformer Language "
        "Models Without Positional Embeddings, arXiv 2305.13571"
    )
    claim: ClassVar[str] = "Without position embeddings, the variance of a random causal layer's output gives position."

    sequences: int = 256
    length: int = 128
    width: int = 64
    spread: float = 0.3

    def findings(self, seed: int) -> list[Finding]:
        x = torch.randn(self.sequences, self.length, self.width, dtype=torch.float64)
        q, k, v = (self._project(x, scale) for scale in (self.spread**0.5, self.spread**0.5, 1.0))
        scores = einsum(q, k, "batch query d, batch key d -> batch query key") / self.width**0.5
        causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        flat, made = torch.zeros_like(scores).masked_fill(~causal, -torch.inf), scores.masked_fill(~causal, -torch.inf)
        uniform, random, blind = (logits.softmax(-1) for logits in (flat, made, scores))
        return [
            Finding(
                "Under uniform causal attention t times the output's variance is the variance of the values: the "
                "largest relative deviation over positions is sampling noise.",
                deviation(uniform, v, 0.0),
                high=0.06,
            ),
            Finding(
                "With random queries and keys the variance follows from the sum of squared attention weights and the "
                "spread of the logits: the largest relative deviation is sampling noise.",
                deviation(random, v, float(scores.square().mean())),
                high=0.06,
            ),
            Finding(
                "With random queries and keys the variance still falls as 1/t: slope of its logarithm on log t.",
                slope(mean_square(random, v).mean(0)),
                -1.05,
                -0.9,
            ),
            Finding(
                "A probe of the output's mean square alone tells the position in unseen sequences: R^2 of log t.",
                probe(mean_square(random, v)),
                low=0.9,
            ),
            Finding(
                "Control: without the causal mask the variance does not depend on position: slope.",
                slope(mean_square(blind, v).mean(0)),
                -0.05,
                0.05,
            ),
            Finding(
                "Control: without the causal mask the same probe fails: R^2.", probe(mean_square(blind, v)), high=0.05
            ),
        ]

    def _project(self, x: Float[Tensor, "batch pos d"], scale: float) -> Float[Tensor, "batch pos d"]:
        """A random linear map whose outputs have standard deviation `scale`."""
        weight = torch.randn(self.width, self.width, dtype=x.dtype) * scale / self.width**0.5
        return x @ weight


def mean_square(
    pattern: Float[Tensor, "batch query key"], v: Float[Tensor, "batch key d"]
) -> Float[Tensor, "batch query"]:
    """Mean square over features of the attention output; its expectation is the variance, as the mean is zero."""
    return einsum(pattern, v, "batch query key, batch key d -> batch query d").square().mean(-1)


def deviation(pattern: Float[Tensor, "batch query key"], v: Float[Tensor, "batch key d"], spread: float) -> float:
    """Largest relative distance, over positions, of the output's variance to the closed form; `spread` is r^2."""
    squares = pattern.square().sum(-1).mean(0)
    expected = v.square().mean() * (squares + (1 - squares) * spread / v.shape[-1])
    return float((mean_square(pattern, v).mean(0) / expected - 1).abs().max())


def slope(variance: Float[Tensor, " pos"]) -> float:
    """Least-squares slope of log variance on log t, t from 1."""
    t = torch.arange(1, len(variance) + 1, dtype=variance.dtype).log()
    centred = t - t.mean()
    return float(centred @ variance.log() / (centred @ centred))


def probe(square: Float[Tensor, "batch pos"]) -> float:
    """R^2 on the second half of the sequences of a line fitted on the first half: log mean square to log t."""
    feature = square.log()
    fit, unseen = feature.chunk(2)
    t = torch.arange(1, square.shape[1] + 1, dtype=square.dtype).log()
    centred = fit - fit.mean()
    gain = (centred * (t - t.mean())).mean() / centred.square().mean()
    error = (t - t.mean() - gain * (unseen - fit.mean())).square().mean()
    return float(1 - error / t.var(correction=0))
