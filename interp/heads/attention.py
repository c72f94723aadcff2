"""Scores read off attention, without a stored pattern."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.heads.weighting import TargetShare
from interp.hooks.batch import Batch
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.masses import SinkMass
from interp.kernels.statistics.per_head import PerHead
from interp.kernels.statistics.targeted import TargetedMass
from interp.kernels.statistics.targets import Chain, Targets, counts

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

SINKS = ("raw", "excluded", "value")
LEFT_OVER = 1e-4
"""A row whose keys other than the first get less than this has no share of them that is more than rounding."""

Both = tuple[Float[Tensor, "batch head"], Float[Tensor, "batch head"]]


@dataclass(frozen=True, eq=False)
class AttentionScorer(Scorer):
    """A score made of statistics of attention. Several of them share one forward."""

    task: ClassVar[str] = "induction"

    @abstractmethod
    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        """What must be known of a layer's attention, under names of the scorer's own."""

    @abstractmethod
    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        """Score and null of every head of a layer, from what was asked."""

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        from interp.heads.together import measure_together

        return measure_together([self], model, pairs, heads, batch_size)[0]


@dataclass(frozen=True, eq=False)
class TargetScorer(AttentionScorer):
    """Mean attention to targets, over the queries that have one.

    By chance is what attention spread evenly over all keys up to the query would give, weighted in the same way.

    Attributes:
        sinks: what is done about the attention that rests on a prompt's first token. 'raw': nothing. 'excluded': rows
            count without it, renormalised; rows with nothing left, and targets that are the first token, count nowhere.
            'value': every key weighs as much as it moves, attention times the norm of `v W_O` (Kobayashi et al. 2020,
            arXiv 2004.10102).

    Raises:
        InterpError: E201, another word for `sinks`.
    """

    chance: ClassVar[str] = "even attention to every key up to the query"

    sinks: str = "raw"

    def __post_init__(self) -> None:
        self.check_choice("sinks", SINKS)

    @abstractmethod
    def targets(self, batch: Batch) -> Int[Tensor, "batch pos"] | Targets:
        """The key, or keys, that a head of this kind looks at from each query; -1 for none."""

    def counted(self, batch: Batch) -> Targets:
        """Targets with all axes, less what `sinks` takes away."""
        targets = self.targets(batch)
        if isinstance(targets, Chain):
            return replace(targets, barred=batch.first) if self.sinks == "excluded" else targets
        targets = targets[:, None, :, None] if targets.ndim == 2 else targets
        if self.sinks == "excluded":
            targets = targets.masked_fill(targets == batch.first[:, None, None, None], -1)
        return targets

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        targets = self.counted(batch)
        queries = counts(targets)[:, 0] > 0
        if self.sinks == "excluded":
            return {"mass": TargetedMass(targets), "first": SinkMass(1)}
        if self.sinks == "value":
            return {"share": PerHead(of=TargetShare(targets, model.w_out(layer)), queries=queries)}
        return {"mass": PerHead(of=TargetedMass(targets), queries=queries)}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        if self.sinks == "value":
            return found["share"][..., 0], found["share"][..., 1]
        targets = self.counted(batch)
        null = even(batch, targets, without_first=self.sinks == "excluded")
        mass = found["mass"]
        if self.sinks == "excluded":
            left = 1 - found["first"]
            rows = (left > LEFT_OVER) & (counts(targets) > 0)
            mass = mean_over(mass / left.clamp(min=LEFT_OVER), rows)
        return mass, null[:, None].to(mass).expand_as(mass)


def mean_over(
    values: Float[Tensor, "batch head pos"],
    rows: Bool[
        Tensor,
        (
            batch  # head pos
        ),
    ],
) -> Tensor:
    """Mean over some queries; NaN where there is none."""
    rows = rows.expand_as(values)
    return torch.where(rows, values, 0).sum(-1) / torch.where(rows.any(-1), rows.sum(-1), torch.nan)


def even(batch: Batch, targets: Targets, *, without_first: bool = False) -> Float[Tensor, " batch"]:
    """What targets get of even attention, mean over the queries that have one."""
    n_seen = places(batch) + (0 if without_first else 1)
    n_targets = counts(targets)[:, 0]
    shares = n_targets / n_seen.clamp(min=1).double()
    return mean_over(shares[:, None], (n_targets > 0)[:, None])[:, 0]


def places(batch: Batch) -> Int[Tensor, "batch pos"]:
    """Place of every token in its prompt, from 0; below 0 in left padding."""
    return torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device) - batch.first[:, None]
