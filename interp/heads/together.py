"""Many scorers over the same prompts: each batch runs once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.attention import AttentionScorer
from interp.heads.scorer import Scores
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.statistics import Measuring
from interp.kernels.attention import Found
from interp.kernels.statistics.base import Statistic

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Numbers = tuple[Float[Tensor, "head _"], Float[Tensor, "head _"]]


def measure_together(
    scorers: Sequence[AttentionScorer], model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int
) -> list[Scores]:
    """Scores of all of them, from one forward a batch.

    Args:
        heads: of one tower.

    Raises:
        InterpError: E403 where a layer's attention can't be read.
    """
    collected: list[list[Numbers]] = [[] for _ in scorers]
    kernels = dict[str, None]()
    for start, stop in batches(len(pairs), batch_size):
        batch = pairs.clean.rows(start, stop).to(model.device)
        found = _run(scorers, model, batch, heads)
        kernels |= dict.fromkeys(layer.backend for layer in found.values())
        for index, scorer in enumerate(scorers):
            collected[index].append(_read(scorer, index, found, batch, heads))
    joined = [_joined(parts, ", ".join(kernels)) for parts in collected]
    return [scorer.flagged(scores, heads) for scorer, scores in zip(scorers, joined, strict=True)]


def _run(
    scorers: Sequence[AttentionScorer], model: HookedModel, batch: Batch, heads: Sequence[HeadId]
) -> dict[int, Found]:
    """Attention of one batch with what every scorer asks of each layer, under names that tell whose it is."""
    tower, measuring = heads[0].tower, {}
    for layer in sorted({head.layer for head in heads}):
        asked: dict[str, str | Statistic] = {
            f"{index}/{name}": statistic
            for index, scorer in enumerate(scorers)
            for name, statistic in scorer.asks(model, batch, layer).items()
        }
        measuring[layer] = Measuring(model.heads[tower][layer], asked, "auto")
    model.run_with_hooks(batch, {point_name(OPERATOR, layer, tower): one for layer, one in measuring.items()})
    return {layer: one.found for layer, one in measuring.items()}


def _read(
    scorer: AttentionScorer, index: int, found: dict[int, Found], batch: Batch, heads: Sequence[HeadId]
) -> Numbers:
    """Values and null of these heads on one batch."""
    prefix = f"{index}/"
    numbers = {}
    for layer, one in found.items():
        own = {name.removeprefix(prefix): one[name] for name in one.statistics if name.startswith(prefix)}
        numbers[layer] = scorer.read(own, batch)
    values, null = (torch.stack([numbers[head.layer][side][:, head.head] for head in heads]) for side in (0, 1))
    return values.double().cpu(), null.double().cpu()


def _joined(parts: Sequence[Numbers], kernel: str) -> Scores:
    values, null = (torch.cat(side, 1).numpy() for side in zip(*parts, strict=True))
    return Scores(values, null, kernel)
