"""`Study`: a head x variant sweep with everything fixed before the first head is swapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from interp.ablation.asking import choose_metric, tokenised
from interp.ablation.shared import Controls, Shared
from interp.circuits.question import Question
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress, batches
from interp.hooks.names import HeadId, HeadLike, parse_heads, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.reference import Reference, mean_reference
from interp.hooks.rerun.engine import Rerun
from interp.kernels.errors import InterpError, suggest
from interp.kernels.variants.base import Variant
from interp.swapping.classes import MaskClass, Nothing, Sizes, make_classes
from interp.swapping.closeness import Closeness, closeness
from interp.swapping.found import split
from interp.swapping.joint import Joint, hits, picked
from interp.swapping.settings import RECENT_SHARE, Settings, default_classes
from interp.tasks.base import Task, TaskExamples

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Given = Sequence[str | Variant] | Mapping[str, str | Variant]


@dataclass(frozen=True, eq=False)
class Singles:
    """Metric and accuracy of the untouched model, and with one head under one class; heads outermost."""

    baseline: Float[np.ndarray, " prompt"]
    baseline_correct: Float[np.ndarray, " prompt"]
    values: Float[np.ndarray, "label prompt"]
    correct: Float[np.ndarray, "label prompt"]


@dataclass(frozen=True, eq=False)
class Study:
    """Made by `Study.make`.

    Attributes:
        found: what the task gave.
        pairs: its prompts as the model reads them.
        asked: heads that are asked about.
        controls: heads that are measured, and matched ones of each.
        chooses: prompts that choose configurations; the others verify them.
        ranks: half of those, on which heads are ranked; the other half checks what that led to.
        classes: mask classes, full attention last.
        mean_z: what stands in for z of a head that is taken away; None for zero.
    """

    model: HookedModel
    settings: Settings
    metric: Metric
    found: TaskExamples
    pairs: Pairs
    asked: tuple[HeadId, ...]
    controls: Controls
    chooses: Bool[np.ndarray, " prompt"]
    ranks: Bool[np.ndarray, " prompt"]
    sizes: Sizes
    classes: tuple[MaskClass, ...]
    mean_z: Reference | None
    shared: Shared

    @classmethod
    def make(
        cls,
        model: HookedModel,
        task: Task,
        settings: Settings,
        heads: str | HeadLike | Sequence[HeadLike],
        variants: Given | None,
        sizes: Mapping[str, Any],
        metric: str | Metric | None,
        *,
        truncate: bool,
        first_token: bool,
    ) -> Study:
        """Read the prompts, choose who decides, and make the classes.

        Raises:
            InterpError: as `interp.swap`.
        """
        measure = choose_metric(model, metric, task)
        found = task.examples(model.tokenizer)
        pairs = tokenised(model, task, found.examples, measure, "", truncate=truncate, first_token=first_token)
        if settings.loss_of == "accuracy" and (pairs.answer is None or measure.kind != "logits"):
            raise InterpError("E205", "accuracy needs answers and logits", fix="loss_of='metric'")
        asked = parse_heads(heads, model.heads)
        ranks, chooses = (split(len(pairs), n, settings.seed) for n in settings.ranks_and_chooses(len(pairs)))
        shared = Shared(model, pairs, measure, settings.batch_size)
        controls = Controls.match(shared, asked, settings.n_matched)
        sized = _sizes(pairs, sizes)
        classes = make_classes(default_classes(bool(sized.roles)) if variants is None else variants, sized)
        if settings.restricted not in (names := [one.name for one in classes[:-1]]):
            raise InterpError("E201", f"no class {settings.restricted!r}", fix=suggest(settings.restricted, names))
        taken = any(isinstance(one, Nothing) and one.taken == "mean" for one in classes)
        mean_z = _mean_z(model, Question.of(pairs, measure), chooses, controls.measured, settings) if taken else None
        filled = tuple(one.filled(mean_z) if isinstance(one, Nothing) else one for one in classes)
        return cls(
            model, settings, measure, found, pairs, asked, controls, chooses, ranks, sized, filled, mean_z, shared
        )  # fmt: skip

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(head.label for head in self.controls.measured)

    @cached_property
    def joint(self) -> Joint:
        """Whole configurations of the heads asked about, on all prompts."""
        labels = tuple(head.label for head in self.asked)
        batch_size = self.settings.batch_size
        return Joint(self.model, self.shared.question, labels, self.classes, batch_size, self.shared.clean)

    def closeness(self) -> Closeness:
        """See `interp.swapping.closeness`."""
        parts = self.shared.parts(self.pairs.clean)
        return closeness(self.model, parts, self.controls.measured, self.classes)

    @torch.no_grad()
    def singles(self, progress: Progress | None) -> Singles:
        """Every head under every class by itself, from the engine."""
        edits = [one.edit((label,)) for label in self.heads for one in self.classes[:-1]]
        variants = [edit for edit in edits if edit is not None]
        question, n = self.shared.question, len(self.pairs)
        values, correct = np.empty((2, len(variants), n))
        base, base_correct = np.empty((2, n))
        spans, done = list(batches(n, self.settings.batch_size)), 0
        for start, stop in spans:
            cut = [variant.rows(start, stop) for variant in variants]
            engine = Rerun(self.model, question.batch.rows(start, stop), cut, question.read_at[start:stop])
            base[start:stop] = question.measure(engine.clean, start, stop, engine.clean).double()
            base_correct[start:stop] = hits(question, engine.clean, start, stop)
            for chunk in engine.plan(budget=self.settings.memory << 20).chunks:
                for index, output in zip(chunk.variants, engine.run(chunk), strict=True):
                    values[index, start:stop] = question.measure(output, start, stop, engine.clean).double()
                    correct[index, start:stop] = hits(question, output, start, stop)
                done += len(chunk.variants)
                if progress is not None:
                    progress(done, len(variants) * len(spans))
        return Singles(base, base_correct, values, correct)


def _sizes(pairs: Pairs, given: Mapping[str, Any]) -> Sizes:
    """Sizes as given; what is left out follows from the prompts."""
    lengths = pairs.clean.lengths
    known = {name: value for name, value in given.items() if value is not None}
    defaults = {"recent": max(1, int(lengths.median()) // RECENT_SHARE), "roles": tuple(pairs.clean.spans)}
    return Sizes(**{**defaults, **known})


def _mean_z(
    model: HookedModel,
    question: Question,
    chooses: Bool[np.ndarray, " prompt"],
    heads: Sequence[HeadId],
    settings: Settings,
) -> Reference:
    """Mean z of all tokens of the prompts that choose."""
    batch = picked(question, torch.from_numpy(np.flatnonzero(chooses))).batch
    names = sorted({point_name("attn.hook_z", head.layer, head.tower) for head in heads})
    parts = [batch.rows(start, stop) for start, stop in batches(batch.size, settings.batch_size)]
    return replace(mean_reference(model, parts, names), origin="mean over prompts that choose")
