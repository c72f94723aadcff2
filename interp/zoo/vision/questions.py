"""Questions on a drawn picture, each with an answer of one word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from interp.zoo.vision.scenes import COMPANIONS, HELD_OUT, LOOKS, PAIRS, Look, Scene, is_new
from interp.zoo.vision.shapes import CELL, COLOURS, SHAPES, SIDE

NUMBERS = ("zero", "one", "two", "three", "four", "five")
PLURALS = {shape: f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES}
LAST = SIDE // CELL - 1
PROMPT = "USER: <image>\n[QUESTION] ASSISTANT:"
"""One picture and one question, as `mini-vlm` reads them; the chat template of LLaVA 1.5 makes the same of them."""


@dataclass(frozen=True)
class Question:
    """A question, its kind, its answer and the wrong answer to hold it against."""

    kind: str
    text: str
    answer: str
    distractor: str


Maker = Callable[[Scene, np.random.Generator], Question | None]


def one_of(options: list[str], rng: np.random.Generator) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def article(word: str) -> str:
    """The word after 'a' or 'an'."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def chosen(scene: Scene, keys: list[str] | list[Look], rng: np.random.Generator) -> int | None:
    """Index of a thing that its key (given per thing) names alone; one that is new to training goes first."""
    counts = Counter(keys)
    alone = [index for index, key in enumerate(keys) if counts[key] == 1]
    if not alone:
        return None
    options = [index for index in alone if is_new(scene.things[index])] or alone
    return options[int(rng.integers(len(options)))]


def ask_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The colour of the only thing of its shape."""
    index = chosen(scene, [thing.shape for thing in scene.things], rng)
    if index is None:
        return None
    thing = scene.things[index]
    other = one_of([colour for colour in COLOURS if colour != thing.colour], rng)
    return Question("colour", f"What colour is the {thing.shape}?", thing.colour, other)


def ask_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The shape of the only thing of its colour."""
    index = chosen(scene, [thing.colour for thing in scene.things], rng)
    if index is None:
        return None
    thing = scene.things[index]
    other = one_of([shape for shape in SHAPES if shape != thing.shape], rng)
    return Question("shape", f"What shape is the {thing.colour} thing?", thing.shape, other)


def ask_position(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Which side of the picture a thing is on, along an axis on which it is not in the middle."""
    index = chosen(scene, scene.looks(), rng)
    if index is None:
        return None
    thing = scene.things[index]
    places = dict(zip((("top", "bottom"), ("left", "right")), divmod(thing.cell, LAST + 1), strict=True))
    sided = [(ends, place) for ends, place in places.items() if place in (0, LAST)]
    if not sided:
        return None
    ends, place = sided[int(rng.integers(len(sided)))]
    answer, other = ends if place == 0 else ends[::-1]
    return Question("position", f"Is the {thing.colour} {thing.shape} {ends[0]} or {ends[1]}?", answer, other)


def ask_presence(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Whether a colour and shape is there: half the time it is; absent ones often mix what is there."""
    looks = scene.looks()
    if rng.random() < 0.5:
        options = [thing.look for thing in scene.things if is_new(thing)] or looks
        return presence(scene, options[int(rng.integers(len(options)))])
    return presence(scene, absent_look(looks, rng))


def absent_look(looks: list[Look], rng: np.random.Generator) -> Look:
    """A colour and shape that is not there; half the time both are there, on different things."""
    barred = () if any(look in HELD_OUT for look in looks) else HELD_OUT
    absent = [look for look in LOOKS if look not in looks and look not in barred]
    colours, shapes = {colour for colour, _ in looks}, {shape for _, shape in looks}
    mixed = [look for look in absent if look[0] in colours and look[1] in shapes]
    options = mixed if mixed and rng.random() < 0.5 else absent
    return options[int(rng.integers(len(options)))]


def presence(scene: Scene, look: Look, kind: str = "presence") -> Question:
    """Whether this colour and shape is there."""
    answer, other = ("yes", "no") if scene.has(look) else ("no", "yes")
    return Question(kind, f"Is there {article(look[0])} {look[1]}?", answer, other)


def ask_companion(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Whether the anchor's companion is there; without an anchor any companion, which is there less often."""
    if scene.pair is not None:
        return presence(scene, PAIRS[scene.pair][1], "companion")
    there = [look for look in COMPANIONS if scene.has(look)]
    absent = [look for look in COMPANIONS if look not in there]
    options = there if there and rng.random() < 0.5 else absent
    return presence(scene, options[int(rng.integers(len(options)))], "companion") if options else None


def ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    """How many things there are of a shape, of a colour, or in all."""
    what = int(rng.integers(3))
    if what == 2:
        return count("things", len(scene.things), rng)
    keys = [look[1 - what] for look in scene.looks()]
    key = one_of(list(PLURALS) if what == 0 else list(COLOURS), rng) if rng.random() < 0.2 else one_of(keys, rng)
    return count(PLURALS[key] if what == 0 else f"{key} things", keys.count(key), rng)


def count(what: str, number: int, rng: np.random.Generator) -> Question:
    """How many there are; the distractor is one more or one fewer."""
    near = [other for other in (number - 1, number + 1) if 0 <= other < len(NUMBERS)]
    other = near[int(rng.integers(len(near)))]
    return Question("count", f"How many {what} are there?", NUMBERS[number], NUMBERS[other])


KINDS: dict[str, Maker] = {
    "colour": ask_colour,
    "shape": ask_shape,
    "position": ask_position,
    "presence": ask_presence,
    "count": ask_count,
}


def ask(scene: Scene, number: int, companion: float, rng: np.random.Generator) -> list[Question]:
    """Up to `number` different questions on a scene, the kinds in turn; with chance `companion` one on a companion."""
    questions = [ask_companion(scene, rng)] if rng.random() < companion else []
    kinds = list(KINDS.values())
    turn = int(rng.integers(len(kinds)))
    questions += [kinds[(turn + index) % len(kinds)](scene, rng) for index in range(number - len(questions))]
    return list({question.text: question for question in questions if question is not None}.values())
