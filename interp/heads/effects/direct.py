"""Heads of the kind: what they write raises the answer directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.attribution.run import collect
from interp.circuits.decompose import Decomposer
from interp.heads.scorer import Scorer, Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class DirectLogitAttribution(Scorer):
    """The head's share of the logit difference of answer and distractor, in logits; `interp.dla` gives all parts of it."""

    name: ClassVar[str] = "direct-logit-attribution"
    source: ClassVar[str] = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; `interp.dla`"
    says: ClassVar[str] = "it writes towards the answer"
    chance: ClassVar[str] = "nothing"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "distractor"})
    task: ClassVar[str] = "induction"

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        whole = collect(Decomposer.of(model), pairs, pairs.read_at, batch_size, shown=0)
        place = {part.label: index for index, part in enumerate(whole.parts)}
        values = whole.values[[place[head.label] for head in heads]]
        return Scores(values, np.zeros_like(values))
