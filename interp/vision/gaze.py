"""GIFT: what a model begins to look at while it reads the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.naive import batches
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.vision.edits import KEYS, Boost, from_first
from interp.vision.pictures import Read, after_image, image_tokens

if TYPE_CHECKING:
    from interp.hooks.batch import Batch
    from interp.hooks.model import HookedModel


def gaze_shift(model: HookedModel, batch: Batch, layers: Sequence[int]) -> Float[Tensor, "batch pos"]:
    """Saliency of image tokens: `sum_t max(0, A[q_t] - A[q_{t-1}])` over the tokens behind the picture; 0 at other keys.

    A is the mean over the heads of these layers. Patterns of these layers stand in memory as a whole.
    """
    names = [point_name("attn.hook_pattern", layer) for layer in layers]
    _, cache = model.run_with_cache(batch, names)
    looks = torch.stack([cache[name].mean(1) for name in names]).mean(0).cpu()
    behind = after_image(batch)
    rises = (looks[:, 1:] - looks[:, :-1]).clamp(min=0)
    both = behind[:, 1:] & behind[:, :-1]
    return (rises * both[..., None]).sum(1) * image_tokens(batch)


def gaze_guidance(
    model: HookedModel,
    read: Read,
    *,
    heads: Any = "all",
    layers: Sequence[int] | None = None,
    alpha: float = 5.0,
    batch_size: int = 64,
) -> Boost:
    """GIFT: attention times `1 + alpha s`, s the gaze shift over its largest value; rows are normalised again.

    Official code was not seen. Saliency from positive changes of image attention while the query is read, its one layer (11
    of 32 for LLaVA-1.5-7B), later layers that are enhanced (12 to 22), alpha 5.0, and that query tokens are amplified
    too, are what its page says; the sum above is a reading of the abstract. Here every token behind the picture gets
    the mean weight of the image tokens, so that the question keeps its share beside the picture.

    Args:
        heads: that are enhanced; 'all' takes those of the later half of the layers.
        layers: read for saliency; None takes the one before the later half.

    Raises:
        InterpError: E314, prompts without a picture.
    """
    half = model.n_layers // 2
    read_in = [max(half - 1, 0)] if layers is None else list(layers)
    chosen = [f"L{layer}H*" for layer in range(half, model.n_layers)] if heads == "all" else heads
    parts = [_weights(model, read[0].rows(*span), read_in, alpha) for span in batches(read[0].size, batch_size)]
    return Boost(chosen, Reference({KEYS: from_first(torch.cat(parts), read[0])}, "GIFT", paired=True), "share")


def _weights(model: HookedModel, batch: Batch, layers: Sequence[int], alpha: float) -> Float[Tensor, "batch pos"]:
    shift, image = gaze_shift(model, batch, layers), image_tokens(batch)
    weight = alpha * shift / shift.amax(-1, keepdim=True).clamp(min=torch.finfo(shift.dtype).tiny)
    mean = weight.sum(-1, keepdim=True) / image.sum(-1, keepdim=True)
    return torch.where(after_image(batch), mean, weight)
