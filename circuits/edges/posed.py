"""`Posed`: what a model is asked, with what stands beside each prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.circuits.question import Question
from interp.hooks.batch import Batch
from interp.hooks.metrics import Metric
from interp.hooks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Posed:
    """Prompts that a model is asked, and those that stand beside them, on the model's device.

    Attributes:
        corrupt: the other prompt of each pair; None where there is none.
        place_of: class of each position, where the graph has edges of its own for each class.
    """

    question: Question
    corrupt: Batch | None = None
    place_of: Int[Tensor, "batch pos"] | None = None

    @classmethod
    def of(cls, pairs: Pairs, metric: Metric, place_of: Int[Tensor, "batch pos"] | None = None) -> Posed:
        """Pairs and what is read of them."""
        return cls(Question.of(pairs, metric), pairs.corrupt, place_of)

    def __len__(self) -> int:
        return self.question.batch.size

    @property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        """Where there are real tokens."""
        found = self.question.batch.mask
        assert found is not None, "a graph has writers at tokens"
        return found

    def rows(self, start: int, stop: int) -> Posed:
        """Prompts start to stop."""
        corrupt = None if self.corrupt is None else self.corrupt.rows(start, stop)
        place_of = None if self.place_of is None else self.place_of[start:stop]
        return Posed(self.question.rows(start, stop), corrupt, place_of)

    def to(self, device: torch.device | str) -> Posed:
        """The same on another device."""
        corrupt = None if self.corrupt is None else self.corrupt.to(device)
        place_of = None if self.place_of is None else self.place_of.to(device)
        return Posed(self.question.to(device), corrupt, place_of)
