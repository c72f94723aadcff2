"""Heads whose look at the picture rests on visual sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.statistics import Measuring
from interp.kernels.statistics.masses import SinkMass
from interp.vision.sinks import Sinks, find_sinks

if TYPE_CHECKING:
    from interp.hooks.batch import Batch
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class VisualSinkShare(Scorer):
    """Of the prompt's last token's attention to the picture, the share on visual sinks; 0 where a layer has none.

    Attributes:
        dimensions: in which sinks stand out; empty: found in the prompts of each batch by a robust rule. A prompt then
            needs others beside it for the same result, so give them where that matters.
        tau: a token with phi above it is a sink; None takes outliers of each prompt.

    Raises:
        InterpError: E314, prompts without a picture.
    """

    name: ClassVar[str] = "visual-sink-share"
    source: ClassVar[str] = "Kang et al. 2025, arXiv 2503.03321; code seilk/VisAttnSink"
    says: ClassVar[str] = "its look at the picture rests on visual sinks"
    chance: ClassVar[str] = "the share of the picture's tokens that are sinks"
    roles: ClassVar[tuple[str, ...]] = ("image",)
    task: ClassVar[str] = "shapes"
    options: ClassVar[Mapping[str, Any]] = {"ask": "presence"}

    dimensions: tuple[int, ...] = ()
    tau: float | None = None

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        layers = sorted({head.layer for head in heads})
        values, null = torch.zeros((2, len(heads), len(pairs)), dtype=torch.float64)
        any_sink = False
        for start, stop in batches(len(pairs), batch_size):
            batch = pairs.clean.rows(start, stop).to(model.device)
            sinks = find_sinks(model, batch, layers=layers, dimensions=self.dimensions or None, tau=self.tau)
            shares = _shares(model, batch, sinks, layers)
            for index, head in enumerate(heads):
                values[index, start:stop] = shares[head.layer][:, head.head]
                null[index, start:stop] = sinks.visual(head.layer).sum(-1) / sinks.image.sum(-1)
            any_sink |= any(bool(sinks.visual(layer).any()) for layer in layers)
        notes = () if any_sink else ("No layer has a visual sink in these prompts.",)
        return Scores(values.numpy(), null.numpy(), notes=notes)


def _shares(
    model: HookedModel, batch: Batch, sinks: Sinks, layers: Sequence[int]
) -> dict[int, Float[Tensor, "batch head"]]:
    measuring = {layer: _measuring(model, layer, sinks.visual(layer), sinks.image) for layer in layers}
    model.run_with_hooks(batch, {point_name(OPERATOR, layer): one for layer, one in measuring.items()})
    rows, end, found = torch.arange(batch.size), batch.end, {}
    for layer, one in measuring.items():
        on, image = (one.found[name][rows, :, end].double().cpu() for name in ("on", "image"))
        found[layer] = torch.where(image > 0, on / image.clamp(min=torch.finfo(image.dtype).tiny), 0.0)
    return found


def _measuring(
    model: HookedModel, layer: int, visual: Bool[Tensor, "batch pos"], image: Bool[Tensor, "batch pos"]
) -> Measuring:
    wanted = {"on": SinkMass(keys=visual), "image": SinkMass(keys=image)}
    return Measuring(model.heads[""][layer], wanted, "auto")
