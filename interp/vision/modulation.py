"""Attention of the language model guided by what the vision tower's class token looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.pictures import ROLE
from interp.hooks.reference import Reference
from interp.vision.class_looks import class_looks
from interp.vision.edits import KEYS, Boost, from_first
from interp.vision.pictures import Read, image_tokens

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

TOP = 0.25
"""Share of the patches that count as objects."""


def modulation(
    model: HookedModel, read: Read, *, heads: Any = "all", alpha: float = 0.7, beta: float = 0.3, batch_size: int = 64
) -> Boost:
    """`l + alpha |l|` on tokens that the class token sees in the first layer, `l + beta |l|` on those that sum up.

    "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of LVLMs" (hasanar1f/llava-hallunication-fix). Tokens
    that sum up ('summary') are those most looked at in the last layer but one, as many as lie above Q3 + 1.5 IQR; objects
    are the top quarter of the first layer that are not among them. Only the newest token's query is changed.

    Args:
        heads: 'all', as the published file does, whatever its abstract says; labels make it head by head.
        alpha, beta: the file's own; 0 on both changes nothing.

    Raises:
        InterpError: as `class_looks`; E314 prompts without a picture.
    """
    early, late = (class_looks(model, read[0], layer, batch_size=batch_size) for layer in (0, -2))
    summary = most_looked_at(late, outlying(late))
    count = torch.full((len(early),), round(TOP * early.shape[1]))
    objects = most_looked_at(early, count) & ~summary
    return Boost(heads, of_image(read[0], alpha * objects.float() + beta * summary.float(), "modulation"))


def image_boost(read: Read, *, heads: Any = "all", alpha: float = 0.5) -> Boost:
    """PAI's half inside the model: `l + alpha |l|` on every image token (Liu et al. 2024, arXiv 2407.21771)."""
    image = alpha * image_tokens(read[0]).float()
    return Boost(heads, Reference({KEYS: from_first(image, read[0])}, "image boost", paired=True))


def of_image(batch: Batch, values: Float[Tensor, "batch image_token"], origin: str) -> Reference:
    """Values of image tokens as weights of keys; 0 at all others."""
    found = torch.zeros(batch.input_ids.shape)
    for row, span in enumerate(batch.spans[ROLE]):
        found[row, list(span)] = values[row]
    return Reference({KEYS: from_first(found, batch)}, origin, paired=True)


def outlying(looks: Float[Tensor, "batch image_token"]) -> Tensor:
    """How many tokens of each prompt lie above Q3 + 1.5 IQR."""
    low, high = (looks.quantile(share, dim=-1, keepdim=True) for share in (0.25, 0.75))
    return (looks > high + 1.5 * (high - low)).sum(-1)


def most_looked_at(looks: Float[Tensor, "batch image_token"], count: Tensor) -> Bool[Tensor, "batch image_token"]:
    """The first so many of each prompt; of equals, the earlier token."""
    rank = looks.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return rank < count[:, None]
