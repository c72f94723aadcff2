"""How much a model is about to refuse, and to comply, read off the next token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

ADDED = 1e-8


def token_mass(logits: Float[Tensor, "batch d_vocab"], tokens: Int[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Summed probability of some tokens of each prompt, in float64; -1 fills where a prompt has fewer."""
    options = tokens[:, None] if tokens.ndim == 1 else tokens
    found = logits.double().softmax(-1).gather(-1, options.clamp(min=0).to(logits.device))
    return torch.where(options.to(logits.device) < 0, 0.0, found).sum(-1)


def refusal_score(logits: Float[Tensor, "batch d_vocab"], tokens: Int[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """`log(P + 1e-8) - log(1 - P + 1e-8)`, P the summed probability of the tokens that begin a refusal, in float64.

    Arditi et al. 2024, arXiv 2406.11717; andyrdt/refusal_direction.
    """
    mass = token_mass(logits, tokens)
    return torch.log(mass + ADDED) - torch.log(1 - mass + ADDED)
