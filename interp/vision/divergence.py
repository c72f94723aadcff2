"""How far a picture moves what heads put out where the answer is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.names import point_name
from interp.vision.pictures import Read

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

MEASURES = ("l2", "squared", "cosine", "relative")
AtAnswer = dict[int, Float[Tensor, "batch head d_head"]]


def answer_z(model: HookedModel, read: Read, layers: Sequence[int]) -> AtAnswer:
    """z of every head of some layers where the answer is read, under the interventions in force."""
    batch, at = read
    names = [point_name("attn.hook_z", layer) for layer in layers]
    _, cache = model.run_with_cache(batch, names)
    rows = torch.arange(batch.size)
    return {layer: cache[name][rows, at].double() for layer, name in zip(layers, names, strict=True)}


def divergence(
    with_picture: Float[Tensor, "batch head d_head"], without: Float[Tensor, "batch head d_head"], measure: str = "l2"
) -> Float[Tensor, "batch head"]:
    """Distance of z with a picture from z without it.

    Args:
        measure: 'l2', the paper's (He et al. 2025, arXiv 2412.13949); 'squared', of an outside port: the same order
            of heads, another outlier rule; 'cosine', 1 - cos, and 'relative', `||dz|| / ||z||`, which long z do not favour.
    """
    distance = (with_picture - without).norm(dim=-1)
    if measure == "squared":
        return distance.square()
    if measure == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(with_picture, without, dim=-1)
    if measure == "relative":
        return distance / with_picture.norm(dim=-1).clamp(min=torch.finfo(distance.dtype).tiny)
    return distance


def without_outliers(
    found: Float[Tensor, "batch head"], without: Float[Tensor, "batch head d_head"]
) -> Float[Tensor, "batch head"]:
    """Divergences with 0 for heads that only lose their text output when a picture comes (the paper's outlier rule).

    Both the divergence and `||z without||^2` are above mean + standard deviation (of the heads of the layer, divided by
    their number) of their kind; all heads of the layer are needed.
    """
    lengths = without.square().sum(-1)
    return torch.where(_stands_out(found) & _stands_out(lengths), 0.0, found)


def _stands_out(values: Float[Tensor, "batch head"]) -> Tensor:
    return values > values.mean(-1, keepdim=True) + values.std(-1, correction=0, keepdim=True)


def total_divergence(
    values: Float[np.ndarray, "head prompt"], layers: Sequence[int], k: int
) -> Float[np.ndarray, " prompt"]:
    """T-VHD of each prompt: over all layers, the sum of the k largest divergences of the layer (arXiv 2412.13949).

    Args:
        layers: of each head.
        k: the paper's text that was seen gives no number.
    """
    of = np.asarray(layers)
    parts = [np.sort(values[of == layer], axis=0)[-k:].sum(0) for layer in np.unique(of)]
    total: np.ndarray = np.sum(parts, axis=0)
    return total
