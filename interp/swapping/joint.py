"""Whole configurations run on a model: a class for every head, and what the metric sees of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.question import Question
from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention
from interp.hooks.metrics import METRICS, pick
from interp.hooks.naive import batches, read_output
from interp.swapping.classes import MaskClass
from interp.swapping.search import State

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ACCURACY = METRICS["top1"]


@dataclass(frozen=True, eq=False)
class Rows:
    """One run.

    Attributes:
        values: the metric.
        correct: 1 where the answer has the largest logit, else 0; nan where there are no answers.
        margin: logit of the answer minus the largest of the others; nan likewise.
    """

    values: Float[np.ndarray, " prompt"]
    correct: Float[np.ndarray, " prompt"]
    margin: Float[np.ndarray, " prompt"]

    def picked(self, chosen: Bool[np.ndarray, " prompt"]) -> Rows:
        """Some of the prompts."""
        return Rows(self.values[chosen], self.correct[chosen], self.margin[chosen])


@dataclass(frozen=True, eq=False)
class Joint:
    """Runs of configurations on some prompts.

    Attributes:
        heads: labels, in the order of a configuration.
        question: the prompts.
        clean: the untouched model's outputs, for metrics that compare with them.
    """

    model: HookedModel
    question: Question
    heads: tuple[str, ...]
    classes: tuple[MaskClass, ...]
    batch_size: int
    clean: Float[Tensor, "prompt d_out"]

    @torch.no_grad()
    def rows(self, state: State) -> Rows:
        """Every prompt under one configuration: one full forward a batch."""
        edits = edits_of(state, self.heads, self.classes)
        parts: list[list[Tensor]] = []
        for start, stop in batches(self.question.batch.size, self.batch_size):
            part = self.question.batch.rows(start, stop)
            with self.model.edit(*edits):
                output = read_output(self.model(part), part, self.question.read_at[start:stop]).cpu()
            value = self.question.measure(output, start, stop, self.clean[start:stop]).double()
            parts.append([value, *(of(self.question, output, start, stop) for of in (hits, margins))])
        return Rows(*(torch.cat(found).numpy() for found in zip(*parts, strict=True)))

    def picked(self, chosen: Bool[np.ndarray, " prompt"]) -> Joint:
        """The same on some of the prompts."""
        index = torch.from_numpy(np.flatnonzero(chosen))
        return replace(self, question=picked(self.question, index), clean=self.clean[index])


def hits(question: Question, output: Float[Tensor, "part d_out"], start: int, stop: int) -> Float[Tensor, " part"]:
    """Accuracy of prompts start to stop; nan without answers."""
    if question.answer is None or question.metric.kind != "logits":
        return torch.full((stop - start,), float("nan"), dtype=torch.float64)
    return ACCURACY(output, question.answer[start:stop]).double()


def margins(question: Question, output: Float[Tensor, "part d_out"], start: int, stop: int) -> Float[Tensor, " part"]:
    """How clearly prompts start to stop are answered: above 0 where the answer has the largest logit."""
    if question.answer is None or question.metric.kind != "logits":
        return torch.full((stop - start,), float("nan"), dtype=torch.float64)
    answer = question.answer[start:stop].reshape(stop - start, -1)
    own = pick(output, answer, -torch.inf).amax(-1)
    is_answer = torch.zeros_like(output, dtype=torch.bool).scatter(1, answer.clamp(min=0), answer >= 0)
    return (own - output.masked_fill(is_answer, -torch.inf).amax(-1)).double()


def edits_of(state: State, heads: Sequence[str], classes: Sequence[MaskClass]) -> tuple[Intervention, ...]:
    """One intervention for each class that some head has."""
    found = []
    for number, one in enumerate(classes):
        members = tuple(head for head, its in zip(heads, state, strict=True) if its == number)
        edit = one.edit(members) if members else None
        if edit is not None:
            found.append(edit)
    return tuple(found)


def picked(question: Question, index: Int[Tensor, " chosen"]) -> Question:
    """Some prompts of a question."""

    def rows(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[index.to(value.device)]

    batch = question.batch
    inputs = {name: rows(value) if isinstance(value, Tensor) else value for name, value in batch.inputs.items()}
    spans = {role: tuple(of_rows[i] for i in index.tolist()) for role, of_rows in batch.spans.items()}
    cut = tuple(batch.truncated[i] for i in index.tolist()) if batch.truncated else ()
    chosen: Batch = replace(batch, inputs=inputs, mask=rows(batch.mask), spans=spans, truncated=cut)
    return Question(chosen, question.read_at[index], question.metric, rows(question.answer), rows(question.distractor))
