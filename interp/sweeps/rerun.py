"""Units computed by the re-execution engine: a batch is recorded once, and variants run on what they can change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.question import Question
from interp.hooks.interventions import Intervention
from interp.hooks.naive import batches
from interp.hooks.rerun.engine import BUDGET, Rerun
from interp.hooks.rerun.plan import ROUTES
from interp.sweeps.units import Unit
from interp.sweeps.work import Values

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


class RerunWork:
    """See `interp.sweeps.work.Work`.

    Args:
        question: prompts and metric.
        variants: interventions; reference values with a batch axis are aligned with the prompts.
        batch_size: prompts of a unit.
        budget: bytes that a run may hold at most.
    """

    def __init__(
        self,
        model: HookedModel,
        question: Question,
        variants: Sequence[Intervention],
        batch_size: int,
        budget: int = BUDGET,
    ) -> None:
        self.model, self.question, self.variants = model, question, variants
        self.rows, self.budget = self._most = batch_size, budget
        self._is_single = False
        self._recorded: tuple[tuple[int, int], Rerun, Question] | None = None

    @property
    def size(self) -> str:
        return f"{self.rows} prompts and {'one variant' if self._is_single else f'{self.budget >> 20} MiB'} a run"

    def halve(self) -> bool:
        """Half the memory for variants; where one is all that runs, half the prompts."""
        self._recorded = None
        if not self._is_single:
            self.budget //= 2
            return True
        self.rows, before = max(1, self.rows // 2), self.rows
        return self.rows < before

    def restore(self) -> None:
        if (self.rows, self.budget) != self._most:
            self._recorded = None
        self.rows, self.budget = self._most
        self._is_single = False

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Values]]:
        for unit in units:
            parts = [self._values(unit, start, stop) for start, stop in self._parts(unit.start, unit.stop)]
            yield unit, torch.cat(parts, 1).numpy()

    def baseline(self) -> Float[np.ndarray, " prompt"]:
        """From the recorded runs that variants are compared with: what changes nothing has an effect of exactly 0."""
        found = []
        for start, stop in self._parts(0, self.question.batch.size):
            engine, question = self._engine(start, stop)
            found.append(question.measure(engine.clean, start, stop, engine.clean).double())
        return torch.cat(found).numpy()

    def description(self) -> str:
        """How units are computed, for the record: of the batch that ran last."""
        start, stop = (0, min(self.rows, self.question.batch.size)) if self._recorded is None else self._recorded[0]
        plan = self._engine(start, stop)[0].plan(budget=self.budget)
        ways = "; ".join(f"{count} variants: {ROUTES[route]}" for route, count in plan.routes.items())
        saved = f"; {plan.naive_flops / plan.flops:.3g} times fewer operations than full forwards" if plan.flops else ""
        return f"from a recorded run, {ways}{saved}" + "".join(f"; {reason}" for reason in plan.reasons)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return ((start + low, start + high) for low, high in batches(stop - start, self.rows))

    def _values(self, unit: Unit, start: int, stop: int) -> Float[Tensor, "variant prompt"]:
        engine, question = self._engine(start, stop)
        plan = engine.plan(range(unit.first, unit.last), budget=self.budget)
        self._is_single = all(len(chunk.variants) == 1 for chunk in plan.chunks)
        values = torch.empty(unit.last - unit.first, stop - start, dtype=torch.float64)
        for chunk in plan.chunks:
            for index, output in zip(chunk.variants, engine.run(chunk), strict=True):
                values[index - unit.first] = question.measure(output, start, stop, engine.clean).double()
        return values

    def _engine(self, start: int, stop: int) -> tuple[Rerun, Question]:
        """The recorded run of a batch, kept for its next unit, and the question in terms of what the engine computes."""
        if self._recorded is None or self._recorded[0] != (start, stop):
            self._recorded = None  # frees the last one before the next is made
            columns, question = narrowed(self.question, start, stop)
            engine = Rerun(
                self.model,
                self.question.batch.rows(start, stop),
                [variant.rows(start, stop) for variant in self.variants],
                self.question.read_at[start:stop],
                columns=columns,
            )
            self._recorded = (start, stop), engine, question
        return self._recorded[1:]


def narrowed(question: Question, start: int, stop: int) -> tuple[Tensor | None, Question]:
    """Entries of the vocabulary that a metric reads on some prompts, and the question as numbered by them."""
    ids = [ids[start:stop].flatten() for ids in (question.answer, question.distractor) if ids is not None]
    if question.metric.reads_all or not ids:
        return None, question
    columns = torch.cat(ids).unique()
    columns = columns[columns >= 0]

    def numbered(tokens: Tensor | None) -> Tensor | None:
        if tokens is None:
            return None
        return torch.where(tokens < 0, tokens, torch.searchsorted(columns, tokens.clamp(min=0)))

    return columns, replace(question, answer=numbered(question.answer), distractor=numbered(question.distractor))
