"""Greater-than: "The war lasted from the year 1743 to the year 17" -> any of 44 to 99.

The task of Hanna et al. 2023 (arXiv 2305.00586) with this toolkit's own word list.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from interp.hooks.examples import Example
from interp.tasks.base import Tokenizer, token_ids
from interp.tasks.split import belongs, draw_until
from interp.tasks.text import TextTask, Words, fill

PATTERN = "The [NOUN] lasted from the year [CENTURY][YEAR] to the year [CENTURY]"
NOUNS = tuple(
    """
    war siege trial strike project contract voyage study career marriage dispute reign show debate journey course game
    plan survey feud treaty truce drought famine revolt mission quest tour season campaign
    """.split()
)
CENTURIES = tuple(range(11, 18))
YEARS = tuple(range(2, 99))


@dataclass(frozen=True)
class GreaterThan(TextTask):
    """Which two digits may follow: those of a later year of the century.

    `answer` holds all later years, `distractor` the others (00 up to the year itself). The corrupt prompt starts in
    year 01, after which every year but two would be right. Facts of the split are noun and year.
    """

    name: ClassVar[str] = "greater_than"
    metric: ClassVar[str] = "prob_diff"
    description: ClassVar[str] = "Greater-than: a span of years must end after it began."
    lists: ClassVar[Words] = {"nouns": NOUNS}

    def draw(self, rng: random.Random, index: int, words: Words) -> Example:
        """See `TextTask.draw`."""
        noun, year = draw_until(
            lambda: (rng.choice(words["nouns"]), rng.choice(YEARS)), lambda fact: belongs(self.split, *map(str, fact))
        )
        values = {"NOUN": noun, "CENTURY": str(rng.choice(CENTURIES))}
        roles = {"NOUN": "noun", "YEAR": "year"}
        clean, spans = fill(PATTERN, {**values, "YEAR": f"{year:02d}"}, roles)
        corrupt, corrupt_spans = fill(PATTERN, {**values, "YEAR": "01"}, roles)
        later, others = years(year + 1, 100), years(0, year + 1)
        return Example(f"greater_than-{index:04d}", clean, later, others, corrupt, spans, corrupt_spans)

    def misfit(self, example: Example, tokenizer: Tokenizer) -> str | None:
        """Years must be two tokens of two digits, so that the last two digits are the answer."""
        assert isinstance(example.answer, tuple)
        if any(len(token_ids(tokenizer, str(year))) != 1 for year in example.answer):
            return "two digits are not one token in this tokenizer"
        text, year = str(example.clean), example.spans["year"]
        parts = [text[: year[0]], text[slice(*year)], text[year[1] :]]
        if sum((token_ids(tokenizer, part) for part in parts), []) != token_ids(tokenizer, text):
            return "this tokenizer does not split the year after the century"
        return super().misfit(example, tokenizer)


def years(start: int, stop: int) -> tuple[str, ...]:
    """Two digits of each year."""
    return tuple(f"{year:02d}" for year in range(start, stop))
