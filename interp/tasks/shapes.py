"""Shapes: questions on drawn pictures, for models that see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from interp.hooks.examples import Example
from interp.kernels.errors import InterpError
from interp.tasks.base import Task, TaskExamples, Tokenizer, check_choice
from interp.zoo.vision.questions import KINDS, LAST, PROMPT, Question, one_of, presence
from interp.zoo.vision.scenes import PAIRS, Scene, World, draw_scene, without_anchor
from interp.zoo.vision.shapes import COLOURS, SHAPES, Thing, paint

ASKS = ("mixed", "colour", "shape", "position", "presence", "absent")
PICTURES = ("train", "cell", "look")
MIXED = ASKS[1:5]
PLACE = "[QUESTION]"


@dataclass(frozen=True)
class Shapes(Task):
    """What is in a drawn picture? Answers are one word.

    The corrupt prompt asks the same of a picture in which one thing is changed so that the distractor is right. For
    `absent` it has the same answer: the anchor stands there in another colour, which announces no companion.

    Attributes:
        ask: one kind of question, or `mixed`, the four ordinary ones in turn. `absent`: is a companion there that nearly
            always stands with a thing of the picture, and does not here?
        pictures: `cell`, combinations of colour and shape in places where training never has them; `look`, with a
            combination that it never has; `train`, as in training. `absent` draws pictures of its own.
        template: the prompt, with [QUESTION] where the question belongs; where the processor's image token is not
            spelled, the picture stands first.
    """

    name: ClassVar[str] = "shapes"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Shapes: colour, shape, position and presence of things in a drawn picture."

    ask: str = "mixed"
    pictures: str = "cell"
    template: str = PROMPT

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "ask", self.ask, ASKS)
        check_choice(self.name, "pictures", self.pictures, PICTURES)
        if PLACE not in self.template:
            fix = f"write {PLACE} where the question belongs"
            raise InterpError("E205", f"template {self.template!r} has no place for a question", fix=fix)

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        """See `Task.examples`."""
        return TaskExamples(tuple(self._draw(index) for index in range(self.n)))

    def _draw(self, index: int) -> Example:
        rng = np.random.default_rng([self.seed, index, ASKS.index(self.ask)])
        kind = MIXED[index % len(MIXED)] if self.ask == "mixed" else self.ask
        scene, question = draw_absent(rng) if kind == "absent" else draw_question(kind, self.pictures, rng)
        twin = without_anchor(scene) if kind == "absent" else changed(scene, question, rng)
        grain = int(rng.integers(2**32))
        clean, corrupt = (paint(s.things, np.random.default_rng(grain), grain=World().grain) for s in (scene, twin))
        text, start = self.template.replace(PLACE, question.text), self.template.index(PLACE)
        spans = {"question": (start, start + len(question.text))}
        return Example(
            f"shapes-{index:04d}-{kind}", text, f" {question.answer}", f" {question.distractor}", text, spans, spans,
            image=clean, corrupt_image=corrupt,
        )  # fmt: skip


def draw_question(kind: str, pictures: str, rng: Generator) -> tuple[Scene, Question]:
    """A scene and a question of this kind on it; scenes on which it can't be asked are drawn again."""
    while True:
        scene = draw_scene(World(), pictures, rng)
        if (question := KINDS[kind](scene, rng)) is not None:
            return scene, question


def draw_absent(rng: Generator) -> tuple[Scene, Question]:
    """An anchor without its companion, asked about it."""
    scene = draw_scene(World(), "absent", rng)
    assert scene.pair is not None
    return scene, presence(scene, PAIRS[scene.pair][1], "absent")


def changed(scene: Scene, question: Question, rng: Generator) -> Scene:
    """The scene with one thing changed so that the question's distractor is right."""
    things = list(scene.things)
    words = set(question.text.rstrip("?").split())
    match question.kind:
        case "colour":
            at = next(i for i, thing in enumerate(things) if thing.shape in words)
            things[at] = replace(things[at], colour=question.distractor)
        case "shape":
            at = next(i for i, thing in enumerate(things) if thing.colour in words)
            things[at] = replace(things[at], shape=question.distractor)
        case "position":
            at = next(i for i, thing in enumerate(things) if set(thing.look) <= words)
            things = moved(things, at, mirrored(things[at].cell, question.answer))
        case "presence" if question.answer == "yes":
            at = next(i for i, thing in enumerate(things) if set(thing.look) <= words)
            look = things[at].look
            others = [colour for colour in COLOURS if colour != look[0]]
            things = [replace(t, colour=one_of(others, rng)) if t.look == look else t for t in things]
        case "presence":
            at, look = int(rng.integers(len(things))), asked(words)
            things[at] = replace(things[at], colour=look[0], shape=look[1], opacity=1.0)
    return Scene(tuple(things), scene.pair)


def asked(words: set[str]) -> tuple[str, str]:
    """The colour and shape that a question names."""
    colour = next(colour for colour in COLOURS if colour in words)
    return colour, next(shape for shape in SHAPES if shape in words)


def mirrored(cell: int, side: str) -> int:
    """The cell at the other end of the axis on which a thing is asked about."""
    row, column = divmod(cell, LAST + 1)
    row, column = (LAST - row, column) if side in ("top", "bottom") else (row, LAST - column)
    return row * (LAST + 1) + column


def moved(things: list[Thing], at: int, cell: int) -> list[Thing]:
    """The things with one in another cell; what stands there changes places with it."""
    old = things[at].cell
    places = {old: cell, cell: old}
    return [replace(thing, cell=places.get(thing.cell, thing.cell)) for thing in things]
