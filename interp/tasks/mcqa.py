"""Multiple choice: a question with four lettered options, answered by a letter.

The symbol-binding task of Wiegreffe et al. 2025 (arXiv 2407.15018) with this toolkit's own templates and word lists.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from string import ascii_uppercase
from typing import ClassVar

from interp.hooks.examples import Example
from interp.tasks.base import check_choice
from interp.tasks.colored_objects import THINGS, draw_fact
from interp.tasks.text import TextTask, Words, fill
from interp.tasks.words import COLOURS

PATTERN = "The [OBJECT] is [COLOUR]. What color is the [OBJECT]?\n" + "".join(
    f"[L{place}]. [C{place}]\n" for place in range(4)
)
PATTERN += "Answer:"
LETTERS = ("abcd", "random")
CORRUPTIONS = ("symbol", "position")


@dataclass(frozen=True)
class Mcqa(TextTask):
    """Which letter stands before the right colour. Facts of the split are object and colour.

    Attributes:
        letters: `abcd` in this order, or four `random` capitals.
        corruption: `symbol` puts four other letters at the same places, and the distractor is the one at the place of
            the answer; `position` swaps the right colour with another one, and the distractor is the letter it gets.
    """

    name: ClassVar[str] = "mcqa"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Multiple choice: name the letter of the right option."
    lists: ClassVar[Words] = {"colours": COLOURS, "things": THINGS, "letters": tuple(ascii_uppercase)}

    letters: str = "abcd"
    corruption: str = "position"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "letters", self.letters, LETTERS)
        check_choice(self.name, "corruption", self.corruption, CORRUPTIONS)

    def draw(self, rng: random.Random, index: int, words: Words) -> Example:
        """See `TextTask.draw`."""
        thing, colour = draw_fact(rng, words, self.split)
        place, other = rng.sample(range(4), 2)
        colours = rng.sample([word for word in words["colours"] if word != colour], 3)
        colours.insert(place, colour)
        letters = list("ABCD") if self.letters == "abcd" else rng.sample(words["letters"], 4)
        answer, distractor = letters[place], letters[other]
        clean, spans = self._render(thing, colour, letters, colours, place)
        if self.corruption == "position":
            colours[place], colours[other] = colours[other], colours[place]
            corrupt, corrupt_spans = self._render(thing, colour, letters, colours, other)
        else:
            letters = rng.sample([letter for letter in words["letters"] if letter not in letters], 4)
            distractor = letters[place]
            corrupt, corrupt_spans = self._render(thing, colour, letters, colours, place)
        return Example(f"mcqa-{index:04d}", clean, f" {answer}", f" {distractor}", corrupt, spans, corrupt_spans)

    def _render(
        self, thing: str, colour: str, letters: list[str], colours: list[str], place: int
    ) -> tuple[str, dict[str, tuple[int, int]]]:
        values = {"OBJECT": thing, "COLOUR": colour}
        values |= {f"L{i}": letter for i, letter in enumerate(letters)} | {f"C{i}": c for i, c in enumerate(colours)}
        return fill(PATTERN, values, {"COLOUR": "fact", f"L{place}": "letter", f"C{place}": "option"})
