"""The masking test: what a metric is worth without the heads that score highest, beside matched sets of other heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.circuits.controls import matched_random_sets, written_norms
from interp.circuits.tables import as_text, counted, number
from interp.heads.result import HeadScores
from interp.hooks.interventions import Ablate
from interp.hooks.metrics import metric as metric_of
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, parse_head
from interp.hooks.pairs import Pairs, tokenise
from interp.hooks.reference import mean_reference
from interp.hooks.rerun.sweep import sweep
from interp.kernels.errors import InterpError
from interp.tasks.base import Task
from interp.tasks.file import FileTask

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

OPERATORS = ("zero", "mean")
MATCHES = {
    "layer": "as many others of the same layers",
    "later": "as many others from their first layer on",
    "norm": "as many others of any layer",
}
"""Where controls come from, and what they are called."""

DRAWS = 100
"""Times as many draws as sets that are wanted, before it is said that there are no more different ones."""


@dataclass(frozen=True, eq=False, repr=False)
class Masking:
    """A metric with all heads, without the highest of a score, and without matched sets of others.

    Attributes:
        scorer, task, metric, operator, match: what was asked.
        heads: the ones that were taken away.
        controls: as many others, set by set.
        clean, masked: the metric of each prompt.
        controlled: the same for each control set.
        also_needed: heads of control sets, each of which costs by itself more than half of what the heads cost together.
    """

    scorer: str
    task: str
    metric: str
    operator: str
    match: str
    heads: tuple[str, ...]
    controls: tuple[tuple[str, ...], ...]
    clean: Float[np.ndarray, " prompt"]
    masked: Float[np.ndarray, " prompt"]
    controlled: Float[np.ndarray, "control prompt"]
    also_needed: tuple[str, ...] = ()

    @property
    def separates(self) -> bool:
        """Whether no control set costs as much as the heads do."""
        return bool(self.masked.mean() < self.controlled.mean(1).min())

    def headline(self) -> str:
        """One sentence, and a second one where control sets hold heads that the metric needs too."""
        lowest = number(float(self.controlled.mean(1).min()))
        without = f"{number(float(self.clean.mean()))} with all heads, {number(float(self.masked.mean()))} without"
        verdict = "" if self.separates else ": not distinguishable from them"
        draws = f"{counted(len(self.controls), 'draw')} of {counted(len(set(self.controls)), 'different set')}"
        others = f"at least {lowest} without {MATCHES[self.match]} ({draws})"
        needed = f" Needed too, alone: {', '.join(self.also_needed)}." if self.also_needed else ""
        return f"{self.metric} is {without} {', '.join(self.heads)}; {others}{verdict}.{needed}"

    def __repr__(self) -> str:
        rows = [["", ", ".join(self.heads), number(float(self.masked.mean()))]]
        means = self.controlled.mean(1).tolist()
        rows += [["control", ", ".join(each), number(mean)] for each, mean in zip(self.controls, means, strict=True)]
        asked = f"{self.scorer}, {self.task}, {self.operator}-ablated"
        return as_text(f"Masking({asked}): {self.headline()}", ("set", "heads", self.metric), rows)


def masking_test(
    model: HookedModel,
    scores: HeadScores,
    task: Task,
    *,
    k: int | None = None,
    operator: str = "mean",
    metric: str = "top1",
    n_controls: int = 10,
    match: str = "layer",
    batch_size: int = 32,
    seed: int = 0,
) -> Masking:
    """Take the highest heads away, by real ablation, and as often as asked as many others.

    Controls hold none of the heads; each stands for one of them, drawn with a probability that falls with the ratio of
    what the two write. 'layer' draws it from the same layer, which in a small model leaves few sets, so that they repeat.
    The others draw different sets: 'later' from the first layer of the heads on, where nothing can be an input of
    theirs; 'norm' from all layers, so that a set may hold a head that they read, and fall with it.

    Heads are ablated at every position of the prompt, so that nothing of them is left for later layers to read.

    Args:
        task: its prompts should not be those that were scored.
        k: how many; None takes the claimed ones.
        operator: 'zero', or 'mean' over the prompts.
        metric: 'top1', 'logit_diff', ...
        n_controls: sets; with 'later' and 'norm' fewer where there are no more.
        match: 'layer', 'later' or 'norm'.
        seed: of the draws.

    Raises:
        InterpError: E205 no head to take away, or more than half of those that controls come from; E201 another
            operator, match or metric.
    """
    for option, given, known in (("operator", operator, OPERATORS), ("match", match, tuple(MATCHES))):
        if given not in known:
            raise InterpError("E201", f"{option} is {given!r}", fix=f"known: {', '.join(known)}")
    heads = highest(scores, k)
    every = [HeadId("", layer, head) for layer, n in enumerate(model.heads[""]) for head in range(n)]
    measured = metric_of(metric)
    pairs = tokenise(
        model.tokenizer, task.examples(model.tokenizer).examples, processor=model.processor, needs=measured.needs & {"answer", "distractor"},
        limit=model.adapter.n_positions, strict=isinstance(task, FileTask),
    )  # fmt: skip
    norms, rng = answer_norms(model, pairs, every, batch_size), np.random.default_rng(seed)
    controls = control_sets([parse_head(label) for label in heads], every, norms, match, n_controls, rng)
    alone = sorted({head for found in controls for head in found})
    sets = [heads, *controls, *((head,) for head in alone)]
    once = list(dict.fromkeys(sets))  # draws repeat where a layer is small, and no set needs to run twice
    clean, found = _values(model, pairs, once, operator, metric, batch_size)
    values = found[[once.index(one) for one in sets]]
    masked, controlled, single = np.split(values, [1, 1 + len(controls)])
    low = single.mean(1) < (clean.mean() + masked.mean()) / 2
    needed = tuple(head for head, fell in zip(alone, low, strict=True) if fell)
    scorer = str(scores.run.method["scorer"])
    return Masking(scorer, task.name, metric, operator, match, heads, controls, clean, masked[0], controlled, needed)


def control_sets(
    heads: Sequence[HeadId],
    every: Sequence[HeadId],
    norms: Float[np.ndarray, " head"],
    match: str,
    n_sets: int,
    rng: np.random.Generator,
) -> tuple[tuple[str, ...], ...]:
    """Labels of sets to compare heads with, see `masking_test`.

    Args:
        norms: mean norm of what each head of `every` writes.
    """
    first = min(head.layer for head in heads) if match == "later" else 0
    pool = [index for index, head in enumerate(every) if head.layer >= first]
    groups = np.array([every[index].layer if match == "layer" else 0 for index in pool])
    target = [pool.index(every.index(head)) for head in heads]
    if match != "layer" and len(pool) < 2 * len(target):
        what = f"{len(target)} of {counted(len(pool), 'head')} are in the set"
        raise InterpError("E205", what, where="masking test", fix="ask about at most half of the heads")
    draws = n_sets if match == "layer" else DRAWS * n_sets
    drawn = matched_random_sets(target, norms[pool], groups, n_sets=draws, rng=rng)
    chosen = drawn if match == "layer" else tuple(dict.fromkeys(drawn))[:n_sets]
    return tuple(tuple(every[pool[index]].label for index in found) for found in chosen)


def highest(scores: HeadScores, k: int | None) -> tuple[str, ...]:
    """Labels of the k highest heads, or of the claimed ones (E205 where there is none)."""
    count = int(scores.claimed.sum()) if k is None else k
    if not 1 <= count <= len(scores.heads):
        fix = "k=1 or more, up to the number of heads"
        raise InterpError("E205", f"{count} heads to take away", where="masking test", fix=fix)
    order = np.argsort(-np.nan_to_num(scores.mean, nan=-np.inf), kind="stable")
    return tuple(row.label for row in scores.top(count)) if k is None else tuple(scores.heads[i] for i in order[:k])


def answer_norms(
    model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int
) -> Float[np.ndarray, " head"]:
    """Mean norm of what each head writes where answers are read."""
    spans = batches(len(pairs), batch_size)
    return written_norms(model, ((pairs.clean.rows(*span), pairs.read_at[slice(*span)]) for span in spans), heads)


def _values(
    model: HookedModel, pairs: Pairs, sets: Sequence[tuple[str, ...]], operator: str, metric: str, batch_size: int
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "set prompt"]]:
    """The metric of each prompt with all heads, and without each set of them."""
    spans = list(batches(len(pairs), batch_size))
    reference = mean_reference(model, [pairs.clean.rows(*span) for span in spans]) if operator == "mean" else None

    def measure(output: Float[Tensor, "batch d_out"], start: int, stop: int) -> Float[Tensor, " batch"]:
        sides = (("answer", pairs.answer), ("distractor", pairs.distractor))
        return metric_of(metric)(output, **{name: side[start:stop] for name, side in sides if side is not None})

    variants = [Ablate(heads=found, operator=operator, reference=reference) for found in sets]
    values, clean = sweep(model, pairs.clean, variants, pairs.read_at, measure, batch_size=batch_size)
    return clean.numpy(), values.numpy()
