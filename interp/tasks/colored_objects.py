"""Coloured objects: "there is a red pen, a blue cup, ... What color is the cup?" -> " blue".

The task of BIG-bench's reasoning about colored objects, as Merullo et al. 2024 (arXiv 2310.08744) use it, with this
toolkit's own templates and word lists.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from interp.hooks.examples import Example
from interp.kernels.errors import InterpError
from interp.tasks.split import belongs, draw_until
from interp.tasks.text import TextTask, Words, fill
from interp.tasks.words import COLOURS

PATTERNS = tuple(
    f"Q: On the [PLACE], {there} a [C0] [O0], a [C1] [O1], and a [C2] [O2]. What color is the [ASKED]?\nA:"
    for there in ("there is", "I see", "you find")
)
SURFACES = ("table", "desk", "floor", "shelf", "bed")
THINGS = tuple(
    """
    pen cup ball ring book key lamp plate bottle box bag hat coat shoe shirt bowl spoon fork coin clock brush mug
    candle towel
    """.split()
)


@dataclass(frozen=True)
class ColoredObjects(TextTask):
    """The colour of one of three objects; the distractor is the colour of another.

    In the corrupt prompt the question is about that other object, so the answer flips. Facts of the split are object
    and colour of what is asked.

    Attributes:
        shots: solved questions that stand before, about other objects.
    """

    name: ClassVar[str] = "colored_objects"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Coloured objects: name the colour of one of three listed objects."
    lists: ClassVar[Words] = {"colours": COLOURS, "things": THINGS, "surfaces": SURFACES}

    shots: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.shots <= 4:
            raise InterpError("E205", f"shots is {self.shots}", where="task colored_objects", fix="give 0 to 4")

    def draw(self, rng: random.Random, index: int, words: Words) -> Example:
        """See `TextTask.draw`."""
        header = ""
        for _ in range(self.shots):
            scene, asked = draw_scene(rng, words, self.split)
            header += fill(scene["PATTERN"], {**scene, "ASKED": scene[f"O{asked}"]})[0] + f" {scene[f'C{asked}']}\n\n"
        scene, asked = draw_scene(rng, words, self.split)
        other = rng.choice([place for place in range(3) if place != asked])
        roles = {f"C{asked}": "color", f"O{asked}": "object", f"C{other}": "other_color", "ASKED": "asked"}
        clean, spans = fill(header + scene["PATTERN"], {**scene, "ASKED": scene[f"O{asked}"]}, roles)
        corrupt, corrupt_spans = fill(header + scene["PATTERN"], {**scene, "ASKED": scene[f"O{other}"]}, roles)
        answer, distractor = f" {scene[f'C{asked}']}", f" {scene[f'C{other}']}"
        return Example(f"colored_objects-{index:04d}", clean, answer, distractor, corrupt, spans, corrupt_spans)


def draw_fact(rng: random.Random, words: Words, split: str) -> tuple[str, str]:
    """A thing and its colour."""
    return draw_until(
        lambda: (rng.choice(words["things"]), rng.choice(words["colours"])), lambda fact: belongs(split, *fact)
    )


def draw_scene(rng: random.Random, words: Words, split: str) -> tuple[dict[str, str], int]:
    """Values of a template (it is among them), and which of the three objects is one of the split."""
    asked = rng.randrange(3)
    thing, colour = draw_fact(rng, words, split)
    things = rng.sample([word for word in words["things"] if word != thing], 2)
    colours = rng.sample([word for word in words["colours"] if word != colour], 2)
    things.insert(asked, thing)
    colours.insert(asked, colour)
    scene = {"PATTERN": rng.choice(PATTERNS), "PLACE": rng.choice(words["surfaces"])}
    scene |= {f"O{place}": word for place, word in enumerate(things)}
    scene |= {f"C{place}": word for place, word in enumerate(colours)}
    return scene, asked
