"""What scores of heads that look at pictures share: statistics of attention among patches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.heads.attention import AttentionScorer, Both
from interp.hooks.batch import Batch
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Part, RowStatistic, Statistic
from interp.kernels.statistics.per_head import PerHead
from interp.vision.aligned import among_patches
from interp.vision.geometry import Geometry, geometry

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

EVEN = "even attention to every patch"


@dataclass(frozen=True, eq=False)
class PatchScorer(AttentionScorer):
    """A score made of one statistic of the attention of patches: two numbers a head, the score and its null."""

    task: ClassVar[str] = "shapes"
    sees: ClassVar[bool] = True
    chance: ClassVar[str] = EVEN

    @abstractmethod
    def statistic(self, where: Geometry) -> Statistic:
        """What must be known: [batch head two]."""

    def asks(self, model: HookedModel, batch: Batch, layer: int) -> Mapping[str, Statistic]:
        return {"both": self.statistic(geometry(model, batch))}

    def read(self, found: Mapping[str, Tensor], batch: Batch) -> Both:
        both = found["both"].double()
        return both[..., 0], both[..., 1]


@dataclass(frozen=True, eq=False)
class AmongPatches(RowStatistic):
    """Something of the rows of patches over patches, and the same of even attention. Others' rows mean nothing.

    Args:
        where: which tokens are patches.
    """

    where: Geometry

    def width(self, problem: Problem) -> tuple[int, ...]:
        return (2,)

    def numbers(self, part: Part) -> Int[Tensor, " row"]:
        """Number of each row's patch, counted row by row; 0 for tokens that are none."""
        numbers = torch.zeros(self.where.n_tokens, dtype=torch.long, device=part.pattern.device)
        numbers[list(self.where.patches)] = torch.arange(len(self.where.patches), device=numbers.device)
        return numbers[part.view.rows]

    def of(self, part: Part) -> Float[Tensor, "batch head row two"]:
        rows, numbers = among_patches(part.pattern[..., list(self.where.patches)]), self.numbers(part)
        found = self.of_rows(rows, numbers)
        null = self.by_chance(torch.full_like(rows[:1, :1], 1 / rows.shape[-1]), numbers)
        return torch.stack([found, null.expand_as(found)], -1)

    def by_chance(self, even: Float[Tensor, "1 1 row patch"], numbers: Int[Tensor, " row"]) -> Float[Tensor, "1 1 row"]:
        """The null of each row: by default the number that even attention has."""
        return self.of_rows(even, numbers)

    @abstractmethod
    def of_rows(
        self, rows: Float[Tensor, "batch head row patch"], numbers: Int[Tensor, " row"]
    ) -> Float[Tensor, "batch head row"]:
        """The number of each row."""


def over_patches(statistic: AmongPatches) -> PerHead:
    """Mean over the patches of a picture."""
    queries = torch.zeros(1, statistic.where.n_tokens, dtype=torch.bool)
    queries[:, list(statistic.where.patches)] = True
    return PerHead(of=statistic, queries=queries)
