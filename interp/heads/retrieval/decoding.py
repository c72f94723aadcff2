"""Greedy decoding, and what every head looked at on the way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.names import point_name
from interp.hooks.statistics import Measuring
from interp.kernels.statistics.largest import ArgMax

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Decoded:
    """Prompts with what the model went on with.

    Attributes:
        queries: position of the token that was fed in at each step.
        emitted: the token that came out; -1 after the end of a text.
        looked_at: layer -> the key that got most of each head at each step.
        kernel: backends that computed attention.
    """

    queries: Int[Tensor, "batch step"]
    emitted: Int[Tensor, "batch step"]
    looked_at: dict[int, Int[Tensor, "batch head step"]]
    kernel: str


@torch.no_grad()
def decode(
    model: HookedModel,
    batch: Batch,
    end: Int[Tensor, " batch"],
    steps: int,
    layers: Collection[int],
    stop: Collection[int],
) -> Decoded:
    """Greedy decoding, and the key that each head looks at most at every step.

    What is decoded, from a cache where the model has one, is then read in one forward, which shows every step what
    decoding showed it, because nothing looks ahead.

    Args:
        end: position of each prompt's last token.
        stop: tokens that end a text.
    """
    written = model.generate(_until(batch, end), max_new_tokens=steps, stop=stop).tokens
    queries = end[:, None] + torch.arange(written.shape[1], device=end.device)
    grown = _grown(batch, end, written[:, :-1])
    measuring = {layer: Measuring(model.heads[""][layer], {"top": ArgMax()}, "auto") for layer in layers}
    model.run_with_hooks(grown, {point_name(OPERATOR, layer): one for layer, one in measuring.items()})
    looked = {
        layer: one.found["top"].gather(2, queries[:, None].expand(-1, model.heads[""][layer], -1))
        for layer, one in measuring.items()
    }
    kernel = ", ".join(dict.fromkeys(one.found.backend for one in measuring.values()))
    return Decoded(queries, written, looked, kernel)


def _until(batch: Batch, end: Int[Tensor, " batch"]) -> Batch:
    """The prompts up to their last token."""
    mask = _mask(batch) & (torch.arange(batch.input_ids.shape[1], device=end.device) <= end[:, None])
    return replace(batch, inputs={**batch.inputs, "attention_mask": mask.long()}, mask=mask)


def _grown(batch: Batch, end: Int[Tensor, " batch"], written: Int[Tensor, "batch step"]) -> Batch:
    """The prompts with what was written behind them."""
    places = end[:, None] + 1 + torch.arange(written.shape[1], device=end.device)
    spare = (0, max(0, int(end.max()) + 1 + written.shape[1] - batch.input_ids.shape[1]))
    rows, steps = torch.where(written >= 0)
    ids = torch.nn.functional.pad(batch.input_ids, spare)
    mask = torch.nn.functional.pad(_mask(_until(batch, end)), spare)
    ids[rows, places[rows, steps]], mask[rows, places[rows, steps]] = written[rows, steps], True
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if "position_ids" in batch.inputs:
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return replace(batch, inputs=inputs, mask=mask)


def _mask(batch: Batch) -> Bool[Tensor, "batch pos"]:
    return torch.ones_like(batch.input_ids, dtype=torch.bool) if batch.mask is None else batch.mask
