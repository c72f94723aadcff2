"""Prompts that a study searches on, and others that it is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.heads.run import tokens_digest
from interp.heads.safety.selecting import chosen
from interp.hooks.examples import Drop
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.tasks.base import Task
from interp.tasks.file import FileTask
from interp.tasks.safety import Safety

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

LEAST = 8
"""Prompts on each side."""

NEEDS = frozenset({"answer", "distractor", "corrupt"})
OTHER = {"all": "rest", "first": "rest", "rest": "first"}


@dataclass(frozen=True, eq=False)
class Prompts:
    """Harmful prompts with harmless twins; the answer begins a refusal, the distractor compliance.

    Attributes:
        record: of the task, for the run.
    """

    pairs: Pairs
    record: Mapping[str, Any]
    notes: tuple[str, ...]
    drops: tuple[Drop, ...]


def both_sides(
    model: HookedModel, task: Task, held_out: Task | None, *, truncate: bool, seed: int
) -> tuple[Prompts, Prompts]:
    """Prompts to search on, and prompts to judge on.

    Of the task `safety`, the latter have other templates, another seed and, where the task asks about all facts, facts of the
    test split while the search has those of the train split. Of any other task one half at random judges, unless `held_out`
    is given.

    Raises:
        InterpError: E205 too few prompts, or some that are on both sides; E303 to E313 for the prompts.
    """
    if isinstance(task, Safety):
        own, other = _two_of(task)
        found = read(model, own, truncate), read(model, held_out or other, truncate)
    elif held_out is not None:
        found = read(model, task, truncate), read(model, held_out, truncate)
    else:
        found = _halves(read(model, task, truncate), seed)
    for one in found:
        if len(one.pairs) < LEAST:
            raise InterpError("E205", f"{len(one.pairs)} prompts on one side", where=task.name, fix=f"{LEAST} or more")
    shared = _texts(found[0].pairs) & _texts(found[1].pairs)
    if shared:
        what = f"{len(shared)} held-out prompts are searched on too"
        raise InterpError("E205", what, where=task.name, fix="choose other prompts, or another seed")
    return found


def _two_of(task: Safety) -> tuple[Safety, Safety]:
    """The task itself, harmful, and its held-out counterpart."""
    own = replace(task, ask="harmful", templates="first" if task.templates == "all" else task.templates)
    own = replace(own, split="train") if task.split == "all" else own
    split = "test" if task.split == "all" else task.split
    return own, replace(own, templates=OTHER[task.templates], seed=task.seed + 1, split=split)


def read(model: HookedModel, task: Task, truncate: bool) -> Prompts:
    """Prompts of a task as the model reads them."""
    found = task.examples(model.tokenizer)
    pairs = tokenise(
        model.tokenizer, found.examples, needs=NEEDS, limit=model.adapter.n_positions, truncate=truncate,
        strict=isinstance(task, FileTask),
    )  # fmt: skip
    drops = (*found.drops, *pairs.drops)
    record = {**task.to_dict(), "kept": len(pairs), "dropped": len(drops), "tokens_sha256": tokens_digest(pairs)}
    return Prompts(pairs, record, (*found.notes, *pairs.warnings), drops)


def _halves(whole: Prompts, seed: int) -> tuple[Prompts, Prompts]:
    """Both halves of the prompts, at random."""
    order = np.random.default_rng([seed, 2]).permutation(len(whole.pairs))
    halves = [chosen(whole.pairs, sorted(half.tolist())) for half in np.array_split(order, 2)]
    one, two = (
        replace(whole, pairs=half, record={**whole.record, "kept": len(half), "tokens_sha256": tokens_digest(half)})
        for half in halves
    )
    return one, two


def _texts(pairs: Pairs) -> set[str]:
    return {str(example.clean) for example in pairs.examples}
