"""Heads that look at the picture where the answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.attention import LEFT_OVER, SINKS, AttentionScorer, Both
from interp.heads.result import HeadScores
from interp.heads.seeing.key_share import KeyShare
from interp.hooks.batch import Batch
from interp.hooks.names import parse_head
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.masses import SinkMass
from interp.vision.pictures import image_tokens

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class ImageMass(AttentionScorer):
    """Attention of the prompt's last token to the tokens of its picture.

    Attributes:
        sinks: 'raw'; 'excluded', of the attention that does not rest on the prompt's first token; 'value', keys weigh as
            much as they move, attention times `||v W_O||`. Sinks among the picture's own tokens: see visual-sink-share.

    Raises:
        InterpError: E201, another word for `sinks`; E314, prompts without a picture.
    """

    name: ClassVar[str] = "image-mass"
    source: ClassVar[str] = "Chen et al. 2024, FastV, arXiv 2403.06764: attention by kind of token"
    says: ClassVar[str] = "it looks at the picture where the answer is read"
    chance: ClassVar[str] = "even attention to every token of the prompt"
    roles: ClassVar[tuple[str, ...]] = ("image",)
    task: ClassVar[str] = "shapes"
    options: ClassVar[Mapping[str, Any]] = {"ask": "presence"}

    sinks: str = "raw"

    def __post_init__(self) -> None:
        self.check_choice("sinks", SINKS)

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        image = image_tokens(batch)
        if self.sinks == "value":
            return {"share": KeyShare(image, model.w_out(layer))}
        return {"mass": SinkMass(keys=image), "first": SinkMass(1)}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        rows, end = torch.arange(batch.size), batch.end
        if self.sinks == "value":
            share = found["share"][rows, :, end]
            return share[..., 0], share[..., 1]
        mass, first = (found[name][rows, :, end] for name in ("mass", "first"))
        seen = batch.lengths
        if self.sinks == "excluded":
            left = 1 - first
            mass = torch.where(left > LEFT_OVER, mass / left.clamp(min=LEFT_OVER), torch.nan)
            seen = seen - 1
        even = image_tokens(batch).sum(-1) / seen
        return mass, even[:, None].to(mass).expand_as(mass)


def by_layer(scores: HeadScores) -> dict[int, Float[np.ndarray, " prompt"]]:
    """Mean score over the heads of each layer, prompt by prompt."""
    layers = np.array([parse_head(label).layer for label in scores.heads])
    return {int(layer): np.nanmean(scores.values[layers == layer], axis=0) for layer in np.unique(layers)}
