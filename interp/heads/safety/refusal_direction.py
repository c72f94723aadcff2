"""Heads of the kind: it writes along the direction of refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from interp.heads.effects.ablation import twins
from interp.heads.safety.direction import Direction, Filter, find_direction, mean_differences
from interp.heads.safety.projection import project
from interp.heads.safety.selecting import places
from interp.heads.scorer import Scorer, Scores
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class RefusalDirection(Scorer):
    """`o . r` of what the head writes at the position of the refusal direction r, see `find_direction`.

    Summed over all heads, MLPs and the embedding it is `x . r` of the stream x (`interp.heads.safety.projection`). Heads at
    and behind the layer of the direction are no part of the stream that it was found in. Chance is the same on the harmless
    twin. The direction is made of the prompts that are scored, so a prompt's number depends on the others.

    Attributes:
        most_kl: see `Filter`; what harmless prompts may lose without the direction.
        layer, position: take the difference of means there, without choosing; position is counted from the end.

    Raises:
        InterpError: E205, one of them without the other.
    """

    name: ClassVar[str] = "refusal-direction"
    source: ClassVar[str] = "direction of Arditi et al. 2024, arXiv 2406.11717; projection of each head on it"
    says: ClassVar[str] = "it writes along the direction of refusal where a request is harmful"
    chance: ClassVar[str] = "what it writes along it on the harmless twin"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor", "corrupt"})
    task: ClassVar[str] = "safety"
    options: ClassVar[Mapping[str, Any]] = {"ask": "harmful"}
    pooled: ClassVar[bool] = True

    most_kl: float = Filter.kl
    layer: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        if (self.layer is None) != (self.position is None):
            raise InterpError("E205", "a layer without a position, or the other way", where=f"scorer {self.name}")

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        found = self.direction(model, pairs, batch_size)
        values, null = (self._along(model, side, heads, found, batch_size) for side in (pairs, twins(pairs)))
        how = "as asked" if self.layer is not None else f"best of {len(found.candidates)} candidates"
        note = f"Direction of the stream entering layer {found.layer}, position {found.position} ({how})."
        return Scores(values, null, notes=(note,))

    def direction(self, model: HookedModel, pairs: Pairs, batch_size: int) -> Direction:
        """Found on these prompts, or the difference of means where the parameters say."""
        if self.layer is None or self.position is None:
            return find_direction(model, pairs, bounds=Filter(kl=self.most_kl), batch_size=batch_size)
        vectors = mean_differences(model, pairs, [self.position], batch_size)
        return Direction(vectors[self.layer, 0], self.layer, self.position)

    def _along(
        self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], found: Direction, batch_size: int
    ) -> np.ndarray:
        columns = []
        for start, stop in batches(len(pairs), batch_size):
            batch = pairs.clean.rows(start, stop).to(model.device)
            one = project(model, batch, places(batch, [found.position])[:, 0], found.unit)
            rows = {part.label: values for part, values in zip(one.parts, one.values, strict=True)}
            columns.append(torch.stack([rows[head.label] for head in heads]).cpu())
        return torch.cat(columns, 1).numpy()
