"""DAMRO: logits against those of a model that sees nothing but the patches its tower's class token dwells on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.naive import batches, read_output
from interp.vision.class_looks import class_looks
from interp.vision.edits import Boost
from interp.vision.modulation import most_looked_at, of_image
from interp.vision.pictures import Read

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

CUT = 0.1
"""Tokens less likely than this share of the likeliest are never said."""


def outlier_contrast(
    model: HookedModel,
    read: Read,
    *,
    alpha: float = 2.0,
    count: int = 10,
    layer: int = -1,
    variant: str = "paper",
    batch_size: int = 64,
) -> Float[Tensor, "batch d_vocab"]:
    """`(1 + alpha) l - alpha l_outliers`, and -inf where `l < max l + log 0.1`: logits of the next token.

    Gong et al. 2024, DAMRO, arXiv 2410.04514; figures of its code (coder-gx/DAMRO). The second branch sees the `count`
    image tokens most looked at by the tower's class token; the others are hidden from every query, where the published
    code leaves their vectors out. A contrast of logits is no intervention on heads: while a text is written it belongs
    to the choice of tokens.

    Args:
        layer: of the tower; the one that the text reads.
        variant: see `class_looks`: the official code has one wide head.

    Raises:
        InterpError: as `class_looks`.
    """
    looks = class_looks(model, read[0], layer, variant, batch_size)
    outliers = most_looked_at(looks, torch.full((len(looks),), count))
    hide = Boost("all", of_image(read[0], -(~outliers).float(), "DAMRO"), "share", None)
    parts = []
    for start, stop in batches(read[0].size, batch_size):
        batch, at = read[0].rows(start, stop), read[1][start:stop]
        own = read_output(model(batch), batch, at)
        with model.edit(hide.rows(start, stop)):
            other = read_output(model(batch), batch, at)
        unlikely = own < own.amax(-1, keepdim=True) + torch.tensor(CUT).log()
        parts.append(((1 + alpha) * own - alpha * other).masked_fill(unlikely, -torch.inf).cpu())
    return torch.cat(parts)
