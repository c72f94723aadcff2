"""`Side`: prompts of a task as a model reads them; one side chooses the circuit, another judges it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from interp.ablation.asking import choose_metric, task_record, tokenised
from interp.circuits.edges.posed import Posed
from interp.discovery.places import classes
from interp.hooks.examples import Drop
from interp.hooks.metrics import Metric
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples
from interp.tasks.file import FileTask

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

APART = 1000
"""What is added to the seed of a task for the prompts that judge."""


@dataclass(frozen=True, eq=False)
class Side:
    """Some prompts.

    Attributes:
        found: what the task gave.
        pairs: its prompts as tokens.
        places: names of the classes of positions.
        posed: the same for methods on the graph.
        start, stop: which of the pairs belong to this side.
    """

    task: Task
    metric: Metric
    found: TaskExamples
    pairs: Pairs
    places: tuple[str, ...]
    posed: Posed
    start: int
    stop: int

    @classmethod
    def of(
        cls, model: HookedModel, task: Task, metric: str | Metric | None, operator: str, positions: str,
        *, known: frozenset[object] = frozenset(), truncate: bool, first_token: bool,
    ) -> Side:  # fmt: skip
        """Read the prompts of a task but for those known (E303 to E313 for them; E402, E407 for the metric)."""
        measure = choose_metric(model, metric, task)
        found = without(task.examples(model.tokenizer), known)
        pairs = tokenised(model, task, found.examples, measure, operator, truncate=truncate, first_token=first_token)
        places, place_of = classes(pairs, positions)
        posed = Posed.of(pairs, measure, place_of).to(model.device)
        return cls(task, measure, found, pairs, places, posed, 0, len(pairs))

    def halves(self) -> tuple[Side, Side]:
        """The first and the second half of the prompts (E311 with fewer than two)."""
        if len(self) < 2:
            what = "one prompt cannot both choose a circuit and judge it"
            raise InterpError("E311", what, where=f"task {self.task.name}", fix="give more prompts, or judge= others")
        middle = self.start + (len(self) + 1) // 2
        return self._part(self.start, middle), self._part(middle, self.stop)

    def _part(self, start: int, stop: int) -> Side:
        posed = self.posed.rows(start - self.start, stop - self.start)
        return replace(self, posed=posed, start=start, stop=stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def record(self) -> dict[str, object]:
        """What a run keeps of it."""
        return {**task_record(self.task, self.found, self.pairs, self.metric), "kept": len(self)}


def both_sides(
    model: HookedModel,
    task: Task,
    judge: Task | None,
    metric: str | Metric | None,
    operator: str,
    positions: str,
    *,
    truncate: bool,
    first_token: bool,
) -> tuple[Side, Side]:
    """Prompts that choose the circuit, and prompts that judge it; none does both.

    Without a task of its own, the judging side is another draw of the same task, or the second half of a file.
    """
    chooses = Side.of(model, task, metric, operator, positions, truncate=truncate, first_token=first_token)
    if judge is None and isinstance(task, FileTask):
        return chooses.halves()
    other = replace(task, seed=task.seed + APART) if judge is None else judge
    known = frozenset(example.clean for example in chooses.pairs.examples)
    judges = Side.of(
        model, other, chooses.metric, operator, positions, known=known, truncate=truncate, first_token=first_token
    )
    if judges.places != chooses.places:
        what = f"places {', '.join(judges.places)} judge a circuit of places {', '.join(chooses.places)}"
        raise InterpError("E205", what, fix="judge on a task with the same roles, or --positions none")
    return chooses, judges


def without(found: TaskExamples, known: frozenset[object]) -> TaskExamples:
    """The examples whose clean prompt is not known; the others are dropped (E311 where none is left)."""
    kept = tuple(example for example in found.examples if example.clean not in known)
    if found.examples and not kept:
        what = "every prompt that would judge is one of those that choose"
        raise InterpError("E311", what, fix="judge on another seed or on other options of the task")
    drops = (
        Drop(example.id, "E315", "it is one of the prompts that choose", example.where)
        for example in found.examples
        if example.clean in known
    )
    return replace(found, examples=kept, drops=(*found.drops, *drops))
