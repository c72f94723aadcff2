"""Repair: heads are made to look where they should, and the task is asked again.

Merullo et al. 2024 ("Circuit Component Reuse Across Tasks in Transformer Language Models", arXiv 2310.08744): on coloured
objects GPT-2 medium uses most of its circuit for indirect objects, but some middle heads are not driven; setting their
attention patterns as that circuit would takes accuracy from 49.6 % to 93.7 %. That says more than that these heads
matter: that the rest of the circuit is there and waits for them.

It says so only where the same pattern in other heads does not do it (matched random sets), and where these heads do not
do it with another pattern (uniform). Which heads can be searched, `find_heads`, on prompts of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.circuits.controls import matched_random_sets, written_norms
from interp.circuits.evaluations import HeadSet
from interp.circuits.group_result import GroupResult, Limits
from interp.circuits.groups import Progress, grow_group
from interp.circuits.interactions import estimate
from interp.circuits.judging.findings import Finding, Findings
from interp.circuits.question import Question
from interp.circuits.understanding.margins import NAN, decided
from interp.circuits.understanding.measured import measured
from interp.circuits.understanding.overrides import Override, Uniform
from interp.circuits.understanding.repaired import RANDOM, REPAIRED, RUNS, UNIFORM, UNTOUCHED, Repair, Repairing, Scored
from interp.hooks.interventions import Intervention
from interp.hooks.metrics import metric
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, HeadSpec, parse_heads

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Values = Float[np.ndarray, "_ prompt"]


@dataclass(frozen=True, eq=False)
class OverrideEffect:
    """metric(heads of the set overridden) - metric(untouched), prompt by prompt: large where the set repairs."""

    model: HookedModel
    question: Question
    override: Override
    batch_size: int = 32

    def __call__(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set prompt"]:
        """The effect of each set; 0 for no head."""
        effects = np.zeros((len(sets), self.question.batch.size))
        if some := [index for index, heads in enumerate(sets) if heads]:
            variants = [self.override(sorted(sets[index])) for index in some]
            values, clean = measured(self.model, self.question, variants, self.batch_size)
            effects[some] = values - clean
        return effects


def find_heads(
    model: HookedModel,
    question: Question,
    override: Override,
    *,
    heads: HeadSpec = "all",
    limits: Limits | None = None,
    batch_size: int = 32,
    name: str = "",
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> GroupResult:
    """The heads that repair most, one after the other: chosen on one half of the prompts, judged on the other.

    Args:
        override: made for the prompts of `question`.
        heads: candidates.
        name, state, progress: as in `grow_group`.
    """
    pool = parse_heads("all", model.heads)
    norms = dict(zip(pool, _norms(model, question, pool, batch_size).tolist(), strict=True))
    objective = OverrideEffect(model, question, override, batch_size)
    candidates = parse_heads(heads, model.heads)
    said = name or f"{question.metric.name} where heads {override.says}"
    return grow_group(candidates, objective, limits=limits, norms=norms, name=said, state=state, progress=progress)


def repair(
    model: HookedModel, question: Question, override: Override, heads: HeadSpec, asked: Repairing | None = None
) -> Repair:
    """Override heads and score again, beside matched random heads and a uniform pattern.

    Args:
        question: prompts that judge; others than those on which the heads were found.
        override: made for these prompts.

    Raises:
        InterpError: E202, E203 no such head; E205 more than half of a layer's heads, so that no random set is left beside
            them (`n_controls=0` goes without); E303 prompts without what a metric needs.
    """
    asked = asked or Repairing()
    chosen = parse_heads(heads, model.heads)
    sets = _random_sets(model, question, chosen, asked)
    variants = [override(chosen), Uniform(override.queries)(chosen), *map(override, sets)]
    own, right = (
        _scores(model, replace(question, metric=one), variants, asked)
        for one in (question.metric, metric(asked.accuracy))
    )
    drawn = own[RANDOM]
    beaten_by = float((drawn.mean(1) >= own[REPAIRED].mean()).mean()) if len(drawn) else NAN
    return Repair(
        heads=tuple(head.label for head in chosen),
        override=override.says,
        metric=question.metric.name,
        accuracy=metric(asked.accuracy).name,
        scores=tuple(_scored(name, own, right, asked) for name in RUNS if len(own[name])),
        beaten_by=beaten_by,
        n_controls=len(drawn),
        findings=Findings(tuple(_findings(own, asked))),
    )


def _norms(
    model: HookedModel, question: Question, heads: Sequence[HeadId], batch_size: int
) -> Float[np.ndarray, " head"]:
    """What each head writes where the answer is read."""
    spans = batches(question.batch.size, batch_size)
    parts = ((question.batch.rows(start, stop), question.read_at[start:stop]) for start, stop in spans)
    return written_norms(model, parts, heads)


def _random_sets(
    model: HookedModel, question: Question, chosen: Sequence[HeadId], asked: Repairing
) -> list[tuple[HeadId, ...]]:
    """Different sets of other heads, as many in each layer and of similar norms."""
    if not asked.n_controls:
        return []
    pool = parse_heads("all", model.heads)
    drawn = matched_random_sets(
        [pool.index(head) for head in chosen],
        _norms(model, question, pool, asked.batch_size),
        np.array([head.layer for head in pool]),
        n_sets=asked.n_controls,
        rng=np.random.default_rng([asked.seed, 11]),
    )
    return [tuple(pool[index] for index in one) for one in dict.fromkeys(drawn)]


def _scores(
    model: HookedModel, question: Question, variants: Sequence[Intervention], asked: Repairing
) -> dict[str, Values]:
    """One metric under every run; several rows for random heads."""
    values, clean = measured(model, question, variants, asked.batch_size)
    return {UNTOUCHED: clean[None], REPAIRED: values[:1], UNIFORM: values[1:2], RANDOM: values[2:]}


def _scored(name: str, own: dict[str, Values], accuracy: dict[str, Values], asked: Repairing) -> Scored:
    """Means of one run; over sets, where there are several."""
    value, right = own[name].mean(0), accuracy[name].mean(0)
    found = (estimate(one, asked.level, asked.seed) for one in (value, right, value - own[UNTOUCHED][0]))
    return Scored(name, *found)


def _findings(own: dict[str, Values], asked: Repairing) -> Iterator[Finding]:
    """The metric rises, and more than without the right heads or the right pattern."""
    repaired = own[REPAIRED][0]
    nulls = {
        UNTOUCHED: "more than untouched",
        UNIFORM: "more than with a uniform pattern in these heads",
        RANDOM: "more than with this pattern in other heads",
    }
    for name, null in nulls.items():
        if not len(own[name]):
            yield Finding(name, NAN, NAN, NAN, null, NAN, None, "untested")
            continue
        margins = repaired - own[name].mean(0)
        value = float(margins.mean())
        yield decided(name, margins, null, value=value, level=asked.level, seed=asked.seed, strictly=True)
