"""Objectives over sets of heads: what a group search maximises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.evaluations import HeadSet
from interp.hooks.batch import Batch
from interp.hooks.interventions import Ablate
from interp.hooks.reference import Reference
from interp.hooks.rerun.sweep import sweep

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class AblationEffect:
    """metric(clean) - metric(all heads of the set ablated), prompt by prompt: large where the set matters.

    Attributes:
        read_at: position read for each prompt.
        measure: (output at that position, start, stop) -> one number a prompt, for prompts start to stop.
        operator, reference: as in `Ablate`.
    """

    model: HookedModel
    batch: Batch
    read_at: Int[Tensor, " batch"]
    measure: Callable[[Tensor, int, int], Tensor]
    operator: str = "zero"
    reference: Reference | None = None
    batch_size: int = 32

    def __call__(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set prompt"]:
        """The effect of each set; 0 for no head."""
        effects = torch.zeros(len(sets), self.batch.size, dtype=torch.float64)
        some = [index for index, heads in enumerate(sets) if heads]
        if some:
            variants = [Ablate(tuple(sorted(sets[index])), self.operator, self.reference) for index in some]
            values, clean = sweep(
                self.model, self.batch, variants, self.read_at, self.measure, batch_size=self.batch_size
            )
            effects[some] = clean - values
        return effects.numpy()
