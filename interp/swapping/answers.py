"""The two questions put to a search: which heads need full attention, and what is the cheapest way to run them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.evidence import moments
from interp.swapping.controls import matched_states
from interp.swapping.found import Found
from interp.swapping.judge import Judge
from interp.swapping.search import Search, State

if TYPE_CHECKING:
    from interp.swapping.study import Singles, Study


AIM = 0.5
"""Part of the bound that a search may use up."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Made by `Answers.of`.

    Attributes:
        scale: what a loss of the metric is a share of: its clean mean, or 1 where that is 0.
        alone: for each head asked about the number of the cheapest class that is within the bound by itself, on
            the prompts that rank.
        needed, cheapest: see `interp.swapping.result`.
        notes: on controls.
    """

    scale: float
    alone: dict[str, int]
    needed: Found
    cheapest: Found
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        study: Study,
        singles: Singles,
        cost: Float[np.ndarray, "head class"],
    ) -> Answers:
        """Search on the prompts that choose, then run what was found, and its controls, on all.

        Args:
            singles: one head under one class.
            cost: mean keys that a query reads, of the heads measured.
        """
        scale = abs(float(moments(singles.baseline[None, study.chooses])[1][0])) or 1.0
        at = [study.heads.index(label) for label in study.joint.heads]
        order = np.argsort(cost[at], axis=1, kind="stable")
        full = len(study.classes) - 1
        ladders = tuple((*(int(one) for one in row if one != full and cost[head, one] <= cost[head, full]), full)
                        for head, row in zip(at, order, strict=True))  # fmt: skip
        keeps = _keeps(singles, study.ranks, scale, study.settings.loss).reshape(len(study.heads), full)
        start = tuple(
            next((one for one in ladder if one == full or keeps[head, one]), full)
            for head, ladder in zip(at, ladders, strict=True)
        )
        restricted = next(i for i, one in enumerate(study.classes) if one.name == study.settings.restricted)
        two = _Twice.of(study, scale, cost[at], ((restricted, full),) * len(at))
        needed, n_needed = two.best(two.ranks.full)
        every = _Twice.of(study, scale, cost[at], ladders)
        cheapest, n_cheapest = every.best(start)
        cheapest = every.checks.cheapest((cheapest, needed))
        notes: list[str] = []
        answers = [_verified(study, state, runs, notes) for state, runs in ((needed, n_needed), (cheapest, n_cheapest))]
        return cls(scale, dict(zip(study.joint.heads, start, strict=True)), answers[0], answers[1], tuple(notes))


@dataclass(frozen=True, eq=False)
class _Twice:
    """A search on one half of the prompts that choose, corrected by the other half.

    What a search takes away looks harmless on the prompts it was chosen on. So these prompts do not decide whether it was:
    others, which had no part in it, do, and heads get costlier classes until the bound holds on them too. Both halves are
    held to a part of the bound, `AIM`, because heads that were chosen lose more on prompts that did not choose them.
    """

    ranks: Search
    checks: Search

    @classmethod
    def of(
        cls, study: Study, scale: float, cost: Float[np.ndarray, "head class"], ladders: tuple[tuple[int, ...], ...]
    ) -> _Twice:
        judges = [
            Judge(study.joint.picked(study.ranks), study.ranks[study.ranks], scale, study.settings.loss_of),
            Judge(study.joint.picked(study.chooses), ~study.ranks[study.chooses], scale, study.settings.loss_of),
        ]
        return cls(*(Search(judge, cost, ladders, AIM * study.settings.loss) for judge in judges))

    def best(self, start: State) -> tuple[State, int]:
        """The cheapest configuration found from this one, and how many were run for it."""
        found = self.checks.best(self.ranks.best(start))
        return found, len(self.ranks.scores) + len(self.checks.scores)


def _keeps(
    singles: Singles,
    prompts: Bool[np.ndarray, " prompt"],
    scale: float,
    bound: float,
) -> Bool[np.ndarray, " label"]:
    """Whether a single swap keeps metric and accuracy within the bound on these prompts."""
    metric = (singles.baseline - singles.values)[:, prompts].mean(1) / scale <= bound
    accuracy = (singles.baseline_correct - singles.correct)[:, prompts].mean(1)
    within: np.ndarray = metric & (np.isnan(accuracy) | (accuracy <= bound))
    return within


def _verified(study: Study, state: State, n_runs: int, notes: list[str]) -> Found:
    """A configuration and its controls on all prompts."""
    layers = [(head.tower, head.layer) for head in study.asked]
    number = {layer: index for index, layer in enumerate(sorted(set(layers)))}
    drawn = matched_states(state, [number[layer] for layer in layers], study.settings.n_controls, study.settings.seed)
    notes.extend(drawn.notes)
    rows = [study.joint.rows(one) for one in (state, *drawn.states)]
    values, correct = (np.stack([getattr(one, name) for one in rows]) for name in ("values", "correct"))
    return Found(state, drawn.states, drawn.n_within, values, correct, n_runs)
