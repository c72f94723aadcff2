"""`mini-retrieval`: a small Llama that recalls facts from long texts; what it is made of and what it reads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from interp.tasks.base import Task
from interp.tasks.registry import task
from interp.tasks.retrieval import DEPTHS
from interp.zoo.language import evaluate, reading
from interp.zoo.language.model import LanguageModel
from interp.zoo.language.reading import Rows

TOKENS_A_FACT, TOKENS_A_SENTENCE = 9, 11
"""About; rows are cut at their length anyway."""


@dataclass(frozen=True)
class MiniRetrieval(LanguageModel):
    """Facts in long texts, in both forms, and induction.

    Attributes:
        tokens: that a step reads of texts.
        lengths: of texts, in tokens; a step takes one of those that its share of the training allows.
        grown: share of the steps after which all lengths are read.
        repeat_tokens: that a step reads of repeated random sequences, first and later.
        first_steps: with the first number of repeated tokens, and the shortest texts alone.
    """

    name: ClassVar[str] = "mini-retrieval"
    data: ClassVar[str] = (
        "Generated: facts of the task retrieval in both forms, alone and in plain everyday sentences, with many questions "
        "and answers a text, and repeated sequences of random tokens of the whole ordinary vocabulary."
    )
    n_asked: ClassVar[int] = 12 * DEPTHS
    n_ablated: ClassVar[int] = 2 * DEPTHS
    """Fewer than elsewhere, because texts are long: verifying the card stays near a minute. Each depth is asked alike."""

    steps: int = 3500
    warmup: int = 50
    learning_rate: float = 2e-3
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 352
    positions: int = 2048
    tokens: int = 3072
    lengths: tuple[int, ...] = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
    grown: float = 0.6
    repeat_tokens: tuple[int, int] = (1920, 512)
    first_steps: int = 400

    def rows(self, rng: random.Random, step: int) -> list[Rows]:
        """See `LanguageModel.rows`."""
        first = step < self.first_steps
        grown = (step - self.first_steps) / (self.grown * self.steps)
        allowed = 1 if first else 2 + int((len(self.lengths) - 2) * min(1.0, grown))
        length = rng.choice(self.lengths[:allowed])
        tokens = self.tokens // 2 if first else self.tokens
        documents = [self._document(rng, length) for _ in range(max(1, tokens // length))]
        texts = reading.text_rows(documents, self.tokenizer, length)
        row = 48 if first else min(length, 128)
        ambiguous = 0.0 if first else 0.5
        repeats = reading.repeats(rng, self.tokenizer, row, self.repeat_tokens[not first] // row, ambiguous)
        return [texts, repeats]

    def _document(self, rng: random.Random, length: int) -> reading.Document:
        """Facts for up to half of the length, questions for up to a third, sentences (or none) for the rest."""
        number = rng.randint(2, max(2, min(length // 2 // TOKENS_A_FACT, 40)))
        asks = min(number, length // 3 // TOKENS_A_FACT)
        left = length - (number + asks) * TOKENS_A_FACT
        sentences = 0 if rng.random() < 0.3 else max(0, left // TOKENS_A_SENTENCE)
        return reading.facts(rng, number, sentences, asks)

    @property
    def held_out(self) -> tuple[Task, ...]:
        """See `LanguageModel.held_out`."""
        n, seed = self.n_asked, evaluate.SEED
        needles = (task("retrieval", n=n, seed=seed, split="test", length=length) for length in (64, 256, 512, 1024))
        lists = (task("retrieval", n=n, seed=seed, split="test", length=256, form="key_value"),)
        return (task("induction", n=n, seed=seed), *needles, *lists)


RECIPES = (MiniRetrieval(),)
