"""Greedy group search: grow a set of heads, one at a time, that maximises an objective.

The same loop is behind the head groups of Sahara ("On the Role of Attention Heads in Large Language Model Safety"), the
pruning of Michel et al. 2019 and others; what differs is the objective. Here:

- The prompts are split at random. One half chooses the head of each round, the other half judges its gain, because the
  best of many candidates looks good on the prompts that chose it.
- A round in which no head gains may try pairs (`lookahead=2`): where two heads do the same work, taking either away
  costs nothing, and only both together show it.
- A group is compared with random sets of its size, as many heads in each layer and of similar output norm.
- What a pair does beyond the sum of its heads is its interaction: f(a, b) - f(a) - f(b) + f().
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from interp.circuits.controls import matched_random_sets
from interp.circuits.evaluations import NONE, Evaluations, HeadSet, Objective
from interp.circuits.evidence import moments
from interp.circuits.group_result import Estimate, GroupResult, Interaction, Limits, Step
from interp.circuits.interactions import estimate, interactions
from interp.circuits.results import RunInfo, environment
from interp.hooks.names import HeadId
from interp.kernels.errors import InterpError

LEAST_TO_SPLIT = 4
Progress = Callable[[int, str], None]


def grow_group(
    candidates: Iterable[HeadId],
    objective: Objective,
    *,
    limits: Limits | None = None,
    norms: Mapping[HeadId, float] | None = None,
    name: str = "",
    state: str | Path | None = None,
    source: RunInfo | None = None,
    progress: Progress | None = None,
) -> GroupResult:
    """Grow a set of heads that maximises an objective.

    Args:
        candidates: heads the group is chosen from.
        objective: many sets of heads at once -> one number a set and prompt, higher is better; the empty set is asked
            for too, and every value is read relative to it.
        norms: mean norm of what each head of the model writes, for the random sets; they are drawn from these heads.
            None draws from the candidates, whatever they write.
        name: what the objective is, in words or as a digest; stored in the state and in the record.
        state: JSON file that holds every evaluation after each round. A search that finds it goes on from there and
            gives the same result.
        source: record of a run on the model and task that the objective measures; what it says of both, and of the proof
            that edits reach that model, stands in the record of the search too.
        progress: called after each round with the number of sets evaluated and the group so far.

    Raises:
        InterpError: E202 no candidates; E205 a state of another objective; E206 the objective's shape; E701 a damaged
            state.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    heads = list(dict.fromkeys(candidates))
    if not heads:
        raise InterpError("E202", "no head to choose from", fix="pass the heads of the model, or some of them")
    evaluations = Evaluations(objective, name, None if state is None else Path(state))
    limits = limits or Limits()
    search = _Search(heads, evaluations, limits, norms, progress)
    found = search.run()
    asked = {"kind": GroupResult.kind, "objective": name, "candidates": [head.label for head in heads]}
    known = source or RunInfo({}, {}, {})
    run = RunInfo(
        model=known.model,
        task=known.task,
        method={**asked, **{key: value for key, value in asdict(limits).items() if key != "seed"}},
        seeds={**known.seeds, "search": limits.seed},
        versions=environment(),
        certificate=known.certificate,
        canary=known.canary,
        warnings=tuple(dict.fromkeys(search.notes)),
        started=started,
        seconds=round(time.monotonic() - clock, 3),
    )
    return GroupResult(run=run, **found)


class _Search:
    """One search: its rounds, and what is evaluated after them."""

    def __init__(
        self,
        heads: Sequence[HeadId],
        evaluations: Evaluations,
        limits: Limits,
        norms: Mapping[HeadId, float] | None,
        progress: Progress | None,
    ) -> None:
        self.heads, self.value, self.limits, self.progress = heads, evaluations, limits, progress
        self.pool = list(heads) if norms is None else [*norms]
        self.norms = np.array([1.0 if norms is None else norms[head] for head in self.pool])
        self.notes: list[str] = []
        self.chosen: list[tuple[HeadId, ...]] = []
        self.gains: list[tuple[Estimate, int]] = []
        self.last: tuple[tuple[str, ...], Estimate] | None = None
        self.choosing, self.judging = self._split(self.value([NONE]).shape[1])

    def _split(self, n: int) -> tuple[Int[np.ndarray, " choosing"], Int[np.ndarray, " judging"]]:
        """Prompts that choose, and prompts that judge."""
        if n < LEAST_TO_SPLIT:
            self.notes.append(
                f"{n} prompts are too few to split: gains are stated on the prompts that chose the heads."
            )
            return np.arange(n), np.arange(n)
        order = np.random.default_rng([self.limits.seed, 0]).permutation(n)
        return np.sort(order[: n // 2]), np.sort(order[n // 2 :])

    @property
    def group(self) -> tuple[HeadId, ...]:
        return tuple(head for added in self.chosen for head in added)

    def run(self) -> dict[str, Any]:
        """All rounds, then controls and interactions; the fields of the result."""
        stopped = ""
        while not stopped:
            stopped = self._round()
            if self.progress is not None:
                self.progress(len(self.value), " ".join(head.label for head in self.group))
        return {
            "group": tuple(head.label for head in self.group),
            "steps": tuple(self._step(index) for index in range(len(self.chosen))),
            "interactions": self._interactions(),
            "stopped": stopped,
            "last": self.last,
            "n_evaluations": len(self.value),
            "n_prompts": (len(self.choosing), len(self.judging)),
            "limits": self.limits,
        }

    def _round(self) -> str:
        """Add what gains most; '' or the reason why nothing was added."""
        self.last, reason = None, ""
        left = [head for head in self.heads if head not in self.group]
        for size in range(1, self.limits.lookahead + 1):
            if len(self.group) + size > self.limits.max_size:
                return reason or "size"
            if len(left) < size:
                return reason or "candidates"
            options = list(combinations(left, size))
            if not self._affordable(options):
                return "budget"
            reason = self._try(options)
            if not reason:
                return ""
        return reason

    def _try(self, options: Sequence[tuple[HeadId, ...]]) -> str:
        """Choose the best of these additions on one half of the prompts, judge it on the other."""
        before = frozenset(self.group)
        gains = self.value([before | set(added) for added in options]) - self.value([before])
        means = moments(gains[:, self.choosing])[1]
        best = int(np.where(np.isfinite(means), means, -np.inf).argmax())
        gain = self._estimate(gains[best])
        if not np.isfinite(gain.mean) or gain.mean <= self.limits.min_gain:
            reason = "gain"
        elif not gain.is_positive:
            reason = "interval"
        else:
            self.last = None
            self.chosen.append(options[best])
            self.gains.append((gain, len(options)))
            return ""
        self.last = (tuple(head.label for head in options[best]), gain)
        return reason

    def _affordable(self, options: Sequence[tuple[HeadId, ...]]) -> bool:
        """Whether this round fits into the budget, with the controls and interactions of the group it may lead to."""
        if self.limits.budget is None:
            return True
        before = frozenset(self.group)
        size = len(self.group) + len(options[0])
        later = (len(self.chosen) + 1) * self.limits.n_controls + size * (size + 1) // 2
        asked = self.value.count_new([before | set(added) for added in options])
        return len(self.value) + asked + later <= self.limits.budget

    def _estimate(self, values: Float[np.ndarray, " prompt"]) -> Estimate:
        return estimate(values[self.judging], self.limits.level, self.limits.seed)

    def _step(self, index: int) -> Step:
        """One accepted round beside random sets of the group's size after it."""
        group = [head for added in self.chosen[: index + 1] for head in added]
        none = self.value([NONE])
        value = (self.value([frozenset(group)]) - none)[0]
        own, (gain, n_tried) = self._estimate(value), self.gains[index]
        labels = tuple(head.label for head in self.chosen[index])
        controls = self._random_sets(group)
        if not controls:
            return Step(labels, gain, own, np.nan, Estimate(np.nan, np.nan, np.nan), 0, np.nan, n_tried)
        others = self.value(controls) - none
        means = moments(others[:, self.judging])[1]
        above = self._estimate(value - moments(others.T)[1])
        beaten_by = float((means >= own.mean).mean())
        return Step(labels, gain, own, float(moments(means[None])[1][0]), above, len(controls), beaten_by, n_tried)

    def _random_sets(self, group: Sequence[HeadId]) -> list[HeadSet]:
        """Different random sets: as many heads in each layer, similar norms, none of the group's."""
        layers = [(head.tower, head.layer) for head in self.pool]
        for layer in sorted({(head.tower, head.layer) for head in group}):
            inside = sum((head.tower, head.layer) == layer for head in group)
            if layers.count(layer) < 2 * inside:
                where = f"{layer[0]}.L{layer[1]}" if layer[0] else f"L{layer[1]}"
                self.notes.append(f"Layer {where} has too few heads outside the group for a random set beside it.")
                return []
        place = {head: index for index, head in enumerate(self.pool)}
        number = {layer: index for index, layer in enumerate(sorted(set(layers)))}
        drawn = matched_random_sets(
            [place[head] for head in group],
            self.norms,
            np.array([number[layer] for layer in layers]),
            n_sets=self.limits.n_controls,
            rng=np.random.default_rng([self.limits.seed, 1, len(group)]),
        )
        return list(dict.fromkeys(frozenset(self.pool[index] for index in indices) for indices in drawn))

    def _interactions(self) -> tuple[Interaction, ...]:
        """Of all pairs of the group, over the judging prompts."""
        pairs = list(combinations(self.group, 2))
        return tuple(
            Interaction((a.label, b.label), self._estimate(values))
            for (a, b), values in zip(pairs, interactions(self.value, pairs), strict=True)
        )
