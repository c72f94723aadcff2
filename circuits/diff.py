"""Two runs compared: how much each head's effect changed, on the prompts they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import (
    benjamini_hochberg,
    bootstrap_interval,
    moments,
    sign_flip_p,
    smallest_p,
)
from interp.circuits.prompt_results import PromptResult
from interp.circuits.tables import as_html, as_text, counted, interval, listed, number
from interp.kernels.errors import InterpError, InterpErrors

COLUMNS = ("head", "first", "second", "change", "interval", "q", "changed")
LEVEL = 0.05
PERMUTATIONS = 9999
UNTOLD = frozenset({"kind", "batch_size", "n_controls", "description", "sweep", "heads", "engine", "kernel"})
"""Entries of a run's method whose difference says nothing of its effects, or that are told otherwise."""


class HeadChange(NamedTuple):
    """One head (or cell, or component: a label of the results) in both runs.

    Attributes:
        first, second: mean effect in each run, over the shared prompts.
        change: second - first; never shown without its interval.
    """

    label: str
    first: float
    second: float
    change: float
    ci_low: float
    ci_high: float
    p: float
    q: float
    changed: bool


@dataclass(frozen=True, eq=False, repr=False)
class RunDiff:
    """Change of each head's effect from one run to another.

    Attributes:
        names: model and operator of both runs, or what else was done.
        task, metric: the same in both.
        prompts: ids of the shared prompts.
        heads: heads of both runs, in order.
        notes: what a reader must know.
        can_claim: whether one head alone could be claimed with so many prompts.
    """

    names: tuple[str, str]
    task: str
    metric: str
    prompts: tuple[str, ...]
    heads: tuple[HeadChange, ...]
    notes: tuple[str, ...]
    can_claim: bool

    def headline(self) -> str:
        """One sentence: which heads changed, or that none can be said to have."""
        over = f"{counted(len(self.heads), 'head')}, {counted(len(self.prompts), 'shared prompt')}"
        changed = [row for row in self.top(len(self.heads)) if row.changed]
        between = f"between {self.names[0]} and {self.names[1]} on {self.task}"
        if not self.can_claim:
            return f"Too few shared prompts for a claim about any head {between} ({over})."
        if not changed:
            return f"No head's effect differs {between} ({over})."
        named = [
            f"{row.label} {number(row.change, signed=True)} {interval(row.ci_low, row.ci_high)}" for row in changed
        ]
        return f"{counted(len(changed), 'head')} changed {between} (5 % false discoveries; {over}): {listed(named)}."

    def top(self, k: int = 5) -> tuple[HeadChange, ...]:
        """Heads that changed first, then by size of the change."""
        order = sorted(self.heads, key=lambda row: (not row.changed, -abs(np.nan_to_num(row.change))))
        return tuple(order[:k])

    def to_frame(self) -> Any:
        """One row a head."""
        import pandas as pd

        return pd.DataFrame(self.heads, columns=HeadChange._fields)

    def __repr__(self) -> str:
        title = f"RunDiff({self.task}, {self.metric}): {self.headline()}"
        return as_text(title, COLUMNS, [cells(row) for row in self.top()])

    def _repr_html_(self) -> str:
        return as_html(self.headline(), COLUMNS, [cells(row) for row in self.top()])


def compare(first: PromptResult, second: PromptResult, *, level: float = LEVEL, seed: int = 0) -> RunDiff:
    """Change of each head's effect from `first` to `second`.

    Effects are paired prompt by prompt: interval and test are over the shared prompts, and q is corrected over all
    shared heads (Benjamini and Hochberg 1995).

    Args:
        level: false-discovery rate, and 1 - coverage of the intervals.
        seed: of the bootstrap and the permutation test.

    Raises:
        InterpError: E312 tokenizers differ; E205 tasks, metrics or heads that cannot be compared, all reasons at once.
    """
    check_comparable(first, second)
    labels = [label for label in first.labels if label in set(second.labels)]
    ids, places = shared_prompts(first, second)
    if not labels or not ids:
        what = "no head" if not labels else "no prompt with the same id and tokens"
        raise InterpError("E205", f"the runs share {what}", fix="compare runs of the same heads on the same prompts")
    own = _effects(first, labels, places[0]), _effects(second, labels, places[1])
    change = own[1] - own[0]
    n_permutations = max(PERMUTATIONS, int(np.ceil(2 * len(labels) / level)))
    low, high = bootstrap_interval(change, level=level, seed=seed)
    p = sign_flip_p(change, n_permutations=n_permutations, seed=seed)
    q = benjamini_hochberg(p)
    table = np.stack([moments(own[0])[1], moments(own[1])[1], moments(change)[1], low, high, p, q], axis=1)
    rows = tuple(
        HeadChange(label, one, other, delta, below, above, p_value, q_value, q_value <= level)
        for label, (one, other, delta, below, above, p_value, q_value) in zip(labels, table.tolist(), strict=True)
    )
    can_claim = smallest_p(len(ids), n_permutations) * len(labels) <= level
    metric = str(first.run.task.get("metric", first.kind))
    names, task = (_name(first), _name(second)), str(first.run.task["name"])
    return RunDiff(names, task, metric, ids, rows, _notes(first, second, labels, ids), can_claim)


def _name(result: PromptResult) -> str:
    """A run in a few words."""
    done = result.run.method.get("operator") or result.run.method.get(result.alike[0] if result.alike else "", "")
    return f"{result.run.model['name']} ({done})" if done else str(result.run.model["name"])


def check_comparable(first: PromptResult, second: PromptResult) -> None:
    """Raise unless effects of both runs are of the same kind."""
    if first.kind != second.kind:
        fix = "compare two runs of the same verb"
        raise InterpError("E205", f"one run holds {first.kind}, the other {second.kind}", fix=fix)
    errors = []
    one, other = (run.run.model.get("tokenizer_sha256") for run in (first, second))
    if one and other and one != other:
        what = f"the tokenizers differ: {one[:12]} and {other[:12]}"
        errors.append(InterpError("E312", what, fix="positions and tokens of the two runs are not the same things"))
    for name, one, other in (
        ("tasks", first.run.task["name"], second.run.task["name"]),
        ("task options", first.run.task.get("options"), second.run.task.get("options")),
        ("metrics", first.run.task.get("metric"), second.run.task.get("metric")),
        *((f"{name} of the method", *(_entry(run, name) for run in (first, second))) for name in first.alike),
    ):
        if one != other:
            fix = "an effect of one is no effect of the other: make both runs alike"
            differ = "differs" if name.endswith("method") else "differ"
            errors.append(InterpError("E205", f"the {name} {differ}: {one} and {other}", fix=fix))
    if errors:
        raise errors[0] if len(errors) == 1 else InterpErrors(errors)


def shared_prompts(first: PromptResult, second: PromptResult) -> tuple[tuple[str, ...], tuple[list[int], list[int]]]:
    """Prompts with equal id, tokens, answer and distractor, and their places in both runs."""
    place = {prompt: index for index, prompt in enumerate(second.prompts)}
    found = [(index, place[prompt]) for index, prompt in enumerate(first.prompts) if prompt in place]
    ids = tuple(first.prompts[index].id for index, _ in found)
    return ids, ([one for one, _ in found], [other for _, other in found])


def _effects(result: PromptResult, labels: Sequence[str], prompts: list[int]) -> Float[np.ndarray, "head prompt"]:
    rows = [result.labels.index(label) for label in labels]
    effects: np.ndarray = result.effects[np.ix_(rows, prompts)]
    return effects


def _notes(first: PromptResult, second: PromptResult, labels: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    """Where the runs are not alike although they can be compared."""
    notes = []
    for name in sorted((set(first.run.method) | set(second.run.method)) - UNTOLD - first.unasked - set(first.alike)):
        one, other = _entry(first, name), _entry(second, name)
        if one != other and not isinstance(one, dict):
            what = f"{name}s" if name in ("operator", "position") else name.replace("_", " ")
            notes.append(f"The {what} differ: {one} and {other}; a change may come from that alone.")
    lost = len(set(first.labels) ^ set(second.labels))
    if lost:
        notes.append(f"{lost} heads are in one run only and were left out.")
    alone = len(first.prompts) + len(second.prompts) - 2 * len(ids)
    if alone:
        notes.append(f"{alone} prompts are in one run only and were left out.")
    if None in [run.run.model.get("tokenizer_sha256") for run in (first, second)]:
        notes.append("A run does not name its tokenizer; prompts count as shared where their tokens are equal.")
    return tuple(notes)


def _entry(result: PromptResult, name: str) -> Any:
    """An entry of the run's method, in words where it names positions."""
    value = result.run.method.get(name)
    if name != "positions":
        return list(value) if isinstance(value, tuple) else value
    return "all" if value is None else value if isinstance(value, str) else " ".join(map(str, value))


def cells(row: HeadChange) -> Sequence[str]:
    """One head's line of the table, in the order of `COLUMNS`."""
    means = (number(value, signed=True) for value in (row.first, row.second, row.change))
    return (row.label, *means, interval(row.ci_low, row.ci_high), number(row.q), "yes" if row.changed else "no")
