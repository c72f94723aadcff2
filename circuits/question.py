"""`Question`: prompts and a metric on them; what a model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.metrics import Metric
from interp.hooks.naive import plain_outputs
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Question:
    """Prompts and the metric that is read on each of them.

    Attributes:
        batch: all prompts.
        read_at: position that the metric reads; -1 for pooled outputs.
        metric: one number a prompt.
        answer, distractor: token ids, where the metric needs them.
    """

    batch: Batch
    read_at: Int[Tensor, " batch"]
    metric: Metric
    answer: Int[Tensor, batch * option] | None = None
    distractor: Int[Tensor, batch * option] | None = None

    @classmethod
    def of(cls, pairs: Pairs, metric: Metric) -> Question:
        """The clean prompts of pairs."""
        read_at = pairs.read_at if metric.kind == "logits" else torch.full_like(pairs.read_at, -1)
        return cls(pairs.clean, read_at, metric, pairs.answer, pairs.distractor)

    def rows(self, start: int, stop: int) -> Question:
        """The question for prompts start to stop."""
        answer, distractor = (None if ids is None else ids[start:stop] for ids in (self.answer, self.distractor))
        return Question(self.batch.rows(start, stop), self.read_at[start:stop], self.metric, answer, distractor)

    def to(self, device: torch.device | str) -> Question:
        """The question on another device."""
        answer, distractor = (None if ids is None else ids.to(device) for ids in (self.answer, self.distractor))
        return Question(self.batch.to(device), self.read_at.to(device), self.metric, answer, distractor)

    def measure(
        self,
        output: Float[Tensor, "batch d_out"],
        start: int,
        stop: int,
        clean: Float[Tensor, "batch d_out"] | None,
    ) -> Float[Tensor, " batch"]:
        """The metric of prompts start to stop.

        Args:
            clean: output of the untouched model on these prompts; None where the metric does not read it.
        """
        answer, distractor = (None if ids is None else ids[start:stop] for ids in (self.answer, self.distractor))
        return self.metric(output, answer, distractor, clean)

    def clean(self, model: HookedModel, start: int, stop: int, batch_size: int) -> Float[Tensor, "batch d_out"]:
        """Output of the untouched model for prompts start to stop."""
        return plain_outputs(model, self.batch.rows(start, stop), self.read_at[start:stop], batch_size)
