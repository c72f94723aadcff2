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

    What is decoded is then read in one forward, which shows every step what decoding showed it, because nothing looks
    ahead.

    Args:
        end: position of each prompt's last token.
        stop: tokens that end a text.
    """
    grown, emitted = _room(batch, end, steps), []
    rows, going = torch.arange(len(end), device=end.device), torch.ones_like(end, dtype=torch.bool)
    for step in range(steps):
        logits = model(grown)[rows, end + step]
        token = logits.argmax(-1)
        emitted.append(torch.where(going, token, -1))
        going = going & ~torch.isin(token, torch.tensor(sorted(stop), device=token.device, dtype=token.dtype))
        if step + 1 < steps:
            grown = _grown(grown, end + step + 1, token, going)
        if not bool(going.any()):
            break
    queries = end[:, None] + torch.arange(len(emitted), device=end.device)
    measuring = {layer: Measuring(model.heads[""][layer], {"top": ArgMax()}, "auto") for layer in layers}
    model.run_with_hooks(grown, {point_name(OPERATOR, layer): one for layer, one in measuring.items()})
    looked = {
        layer: one.found["top"].gather(2, queries[:, None].expand(-1, model.heads[""][layer], -1))
        for layer, one in measuring.items()
    }
    kernel = ", ".join(dict.fromkeys(one.found.backend for one in measuring.values()))
    return Decoded(queries, torch.stack(emitted, 1), looked, kernel)


def _room(batch: Batch, end: Int[Tensor, " batch"], steps: int) -> Batch:
    """The batch with room for the decoded tokens behind the last prompt."""
    width = max(batch.input_ids.shape[1], int(end.max()) + steps)
    spare = (0, width - batch.input_ids.shape[1])
    mask = torch.nn.functional.pad(_mask(batch), spare)
    inputs = {"input_ids": torch.nn.functional.pad(batch.input_ids, spare), "attention_mask": mask.long()}
    if "position_ids" in batch.inputs:
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return replace(batch, inputs=inputs, mask=mask)


def _grown(
    batch: Batch, place: Int[Tensor, " batch"], token: Int[Tensor, " batch"], going: Bool[Tensor, " batch"]
) -> Batch:
    """The batch with one more token in the rows that go on."""
    ids, mask = batch.input_ids.clone(), _mask(batch).clone()
    rows = torch.where(going)[0]
    ids[rows, place[rows]], mask[rows, place[rows]] = token[rows], True
    inputs = {**batch.inputs, "input_ids": ids, "attention_mask": mask.long()}
    if "position_ids" in inputs:
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return replace(batch, inputs=inputs, mask=mask)


def _mask(batch: Batch) -> Bool[Tensor, "batch pos"]:
    return torch.ones_like(batch.input_ids, dtype=torch.bool) if batch.mask is None else batch.mask
