"""`mini`: a small Llama that does the toolkit's text tasks; what it reads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from interp.tasks.base import Task
from interp.tasks.registry import task
from interp.zoo.language import evaluate, reading
from interp.zoo.language.model import DOCUMENTS, LanguageModel
from interp.zoo.language.reading import Rows


@dataclass(frozen=True)
class Phase:
    """Part of a training.

    Attributes:
        start: its first step.
        documents: how many of each kind in a step.
        facts: documents of facts in a step.
        repeats: rows of about 48 repeated random tokens in a step.
        ambiguous: share of these rows in which one token does not tell which one follows.
    """

    start: int
    documents: dict[str, int]
    facts: int
    repeats: int
    ambiguous: float = 0.5


@dataclass(frozen=True)
class Mini(LanguageModel):
    """Every short task: heads that look back for the same token first, then all tasks, then mostly arithmetic.

    Attributes:
        phases: in order.
        longest: tokens of a document.
    """

    name: ClassVar[str] = "mini"
    data: ClassVar[str] = (
        "Generated: train questions of the tasks with their answers, plain everyday sentences, short lists of facts with "
        "questions, and repeated sequences of random tokens of the whole ordinary vocabulary."
    )

    steps: int = 4000
    warmup: int = 50
    learning_rate: float = 2e-3
    weight_decay: float = 0.2
    phases: tuple[Phase, ...] = (
        Phase(0, {"ioi": 14}, facts=6, repeats=36, ambiguous=0.0),
        Phase(
            500,
            {
                "ioi": 6,
                "greater_than": 3,
                "docstring": 4,
                "colored_objects": 7,
                "arithmetic": 8,
                "mcqa": 7,
                "safety": 3,
                "plain": 1,
            },
            facts=6,
            repeats=12,
        ),
        Phase(
            1500,
            {
                "ioi": 4,
                "greater_than": 2,
                "docstring": 2,
                "colored_objects": 4,
                "arithmetic": 22,
                "mcqa": 3,
                "safety": 2,
                "plain": 1,
                "numbers": 14,
            },
            facts=2,
            repeats=6,
        ),
    )
    longest: int = 128

    def rows(self, rng: random.Random, step: int) -> list[Rows]:
        """See `LanguageModel.rows`."""
        phase = max((phase for phase in self.phases if phase.start <= step), key=lambda phase: phase.start)
        documents = [make(rng) for kind, make in DOCUMENTS.items() for _ in range(phase.documents.get(kind, 0))]
        documents += [reading.facts(rng, rng.randint(2, 10), 0, 5) for _ in range(phase.facts)]
        texts = [reading.text_rows(part, self.tokenizer, self.longest) for part in reading.by_length(documents, 3)]
        length = rng.choice((32, 48, 64, 96))
        rows = max(1, phase.repeats * 48 // length)
        return [*texts, reading.repeats(rng, self.tokenizer, length, rows, phase.ambiguous)]

    @property
    def held_out(self) -> tuple[Task, ...]:
        """See `LanguageModel.held_out`."""
        n, seed = self.n_asked, evaluate.SEED
        names = ("ioi", "greater_than", "docstring", "colored_objects", "arithmetic", "mcqa", "safety")
        return (task("induction", n=n, seed=seed), *(task(name, n=n, seed=seed, split="test") for name in names))


RECIPES = (Mini(),)
