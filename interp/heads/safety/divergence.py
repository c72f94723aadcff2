"""How far two next-token distributions are apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

ADDED = 1e-12
"""The published code adds this to every probability."""


def divergence(
    base: Float[Tensor, "*batch d_vocab"], other: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(base || other) of two sets of logits, in nats."""
    one, two = base.log_softmax(-1), other.log_softmax(-1)
    return torch.where(one.isneginf(), 0.0, one.exp() * (one - two)).sum(-1)


def official_divergence(
    base: Float[Tensor, "*batch d_vocab"], other: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """`kl_divergence` of ydyjya/SafetyHeadAttribution, of probabilities.

    Deviations from KL: 1e-12 is added to both sides before the ratio, so neither sums to 1 any more (by 1e-12 times the
    vocabulary) and probabilities below 1e-12 weigh as if they were that; and the sum runs over whatever it is given, a batch
    included (here each row is its own).
    """
    one, two = base + ADDED, other + ADDED
    return (one * torch.log(one / two)).sum(-1)
