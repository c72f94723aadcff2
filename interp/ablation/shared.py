"""What every head of one ablation shares: the clean run, reference values and matched controls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.circuits.controls import grouped, matched_controls, written_norms
from interp.circuits.question import Question
from interp.hooks.batch import Batch
from interp.hooks.metrics import Metric
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.reference import Reference, mean_reference, paired_reference

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


class Shared:
    """What every head of one ablation shares: prompts and metric, the clean run, and reference values."""

    def __init__(self, model: HookedModel, pairs: Pairs, metric: Metric, batch_size: int) -> None:
        self.model, self.pairs, self.batch_size = model, pairs, batch_size
        self.question = Question.of(pairs, metric)

    @cached_property
    def clean(self) -> Float[Tensor, "prompt d_out"]:
        """Output of the untouched model."""
        return self.question.clean(self.model, 0, len(self.pairs), self.batch_size)

    @property
    def baseline(self) -> Float[Tensor, " prompt"]:
        """The metric of the untouched model, in float64."""
        return self.question.measure(self.clean, 0, len(self.pairs), self.clean).double()

    def parts(self, batch: Batch) -> list[Batch]:
        return [batch.rows(start, stop) for start, stop in batches(batch.size, self.batch_size)]

    def references(self, heads: tuple[HeadId, ...], operator: str) -> list[tuple[HeadId, Reference | None]]:
        """Each head with the values that stand in for its z; heads of a layer share them."""
        names = sorted({point_name("attn.hook_z", head.layer, head.tower) for head in heads})
        if operator in ("mean", "positional-mean"):
            whole = mean_reference(
                self.model, self.parts(self.pairs.clean), names, per_position=operator == "positional-mean"
            )
        elif operator == "resample":
            assert self.pairs.corrupt is not None
            whole = paired_reference(
                self.model, self.parts(self.pairs.corrupt), names, "the corrupt prompt of each pair"
            )
        else:
            return [(head, None) for head in heads]
        layers = {name: Reference({name: whole[name]}, whole.origin, whole.paired) for name in names}
        return [(head, layers[point_name("attn.hook_z", head.layer, head.tower)]) for head in heads]

    def output_norms(self, heads: tuple[HeadId, ...]) -> Float[np.ndarray, " head"]:
        """Mean norm of what each head writes into the residual stream, over all tokens of the clean prompts."""
        return written_norms(self.model, ((part, None) for part in self.parts(self.pairs.clean)), heads)


@dataclass(frozen=True)
class Controls:
    """The heads a sweep measures and, for each, its matched controls.

    Attributes:
        measured: heads asked for and the controls they need, in model order.
        labels: for each measured head its controls; empty for heads measured only as controls.
        notes: for heads whose controls are not what was asked for.
    """

    measured: tuple[HeadId, ...]
    labels: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    @classmethod
    def match(cls, shared: Shared, chosen: tuple[HeadId, ...], n: int) -> Controls:
        """Same layer, nearest output norm (see `interp.circuits.controls`)."""
        towers = {head.tower for head in chosen}
        layers = {(head.tower, head.layer) for head in chosen}
        every = [
            HeadId(tower, layer, head)
            for tower in sorted(towers)
            for layer, count in enumerate(shared.model.heads[tower])
            for head in range(count)
        ]
        pool = tuple(head for head in every if (head.tower, head.layer) in layers)
        if any(shared.model.heads[tower][layer] == 1 for tower, layer in layers):
            pool = tuple(every)
        number = {key: index for index, key in enumerate(sorted({(head.tower, head.layer) for head in pool}))}
        matched = matched_controls(
            shared.output_norms(pool), np.array([number[head.tower, head.layer] for head in pool]), n
        )
        wanted = set(chosen)
        needed = {
            pool[index]
            for head, indices in zip(pool, matched.indices, strict=True)
            if head in wanted
            for index in indices
        }
        measured = tuple(head for head in pool if head in wanted | needed)
        labels = {
            head: tuple(pool[index].label for index in indices) if head in wanted else ()
            for head, indices in zip(pool, matched.indices, strict=True)
        }
        notes = grouped((head.label, note) for head, note in zip(pool, matched.notes, strict=True) if head in wanted)
        return cls(measured, tuple(labels[head] for head in measured), notes)
