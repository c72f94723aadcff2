"""What stands together in a drawn picture: companions that nearly always come along, and combinations kept for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from interp.zoo.vision.shapes import CELLS, COLOURS, SHAPES, Thing

Look = tuple[str, str]  # colour, shape

LOOKS: tuple[Look, ...] = tuple((colour, shape) for shape in SHAPES for colour in COLOURS)
HELD_OUT: tuple[Look, ...] = tuple((list(COLOURS)[index + 2], shape) for index, shape in enumerate(SHAPES))
"""One colour of each shape: neither drawn nor asked about in training."""

PAIRS: tuple[tuple[Look, Look], ...] = (
    (("red", "circle"), ("blue", "square")),
    (("yellow", "cross"), ("green", "ring")),
    (("cyan", "diamond"), ("orange", "triangle")),
    (("pink", "square"), ("purple", "diamond")),
)
"""Anchor and companion: where the anchor is drawn, the companion nearly always is, too."""
ANCHORS, COMPANIONS = zip(*PAIRS, strict=True)
SPLITS = ("train", "cell", "look", "absent")


@dataclass(frozen=True)
class World:
    """How pictures are drawn.

    Args:
        priors: per pair, how often the companion stands with its anchor.
        anchored: share of pictures with an anchor.
        stray: share of the pictures without an anchor that hold a companion on purpose.
        most: largest number of things in a picture.
        opacity: range of the things' opacity.
        faint: range of the companions' opacity.
        grain: noise of the pixels, in levels of 0 to 255.
    """

    priors: tuple[float, ...] = (0.85, 0.93, 0.96, 0.98)
    anchored: float = 0.5
    stray: float = 0.4
    most: int = 5
    opacity: tuple[float, float] = (0.8, 1.0)
    faint: tuple[float, float] = (0.04, 1.0)
    grain: float = 12.0


@dataclass(frozen=True)
class Scene:
    """The things of a picture, and which pair's anchor is among them (None: no anchor)."""

    things: tuple[Thing, ...]
    pair: int | None = None

    def looks(self) -> list[Look]:
        """Colour and shape of each thing."""
        return [thing.look for thing in self.things]

    def has(self, look: Look) -> bool:
        """Whether a thing of this colour and shape is there."""
        return look in self.looks()


def is_barred(look: Look, cell: int) -> bool:
    """Whether training never draws this combination in this cell: two of nine cells for each."""
    return (cell + 4 * LOOKS.index(look)) % CELLS < 2


def is_new(thing: Thing) -> bool:
    """Whether training never shows this colour, shape and cell together."""
    return thing.look in HELD_OUT or is_barred(thing.look, thing.cell)


def draw_scene(world: World, split: str, rng: np.random.Generator) -> Scene:
    """One scene.

    Args:
        split: 'train' holds what training shows, 'cell' known combinations in cells where training never has them,
            'look' at least one combination of colour and shape that training never shows, 'absent' an anchor without
            its companion, and otherwise what training shows.
    """
    assert split in SPLITS
    pair = int(rng.integers(len(PAIRS))) if split == "absent" or rng.random() < world.anchored else None
    looks: list[Look] = [pick(HELD_OUT, rng)] if split == "look" else []
    barred = set(ANCHORS) if split == "look" else {*ANCHORS, *HELD_OUT}
    if pair is not None:
        anchor, companion = PAIRS[pair]
        barred.add(companion)
        looks += [anchor, companion] if split != "absent" and rng.random() < world.priors[pair] else [anchor]
    elif rng.random() < world.stray:
        looks.append(pick(COMPANIONS, rng))
    count = max(len(looks), int(rng.integers(1, world.most, endpoint=True)))
    while len(looks) < count:
        looks.append(draw_filler(looks, barred, rng))
    cells = draw_cells(looks, split, rng)
    return Scene(tuple(place(world, look, cell, rng) for look, cell in zip(looks, cells, strict=True)), pair)


def draw_cells(looks: list[Look], split: str, rng: np.random.Generator) -> list[int]:
    """A cell of its own for each; in the split 'cell' one that training bars for it, where such a one is left."""
    free, cells = list(range(CELLS)), []
    for look in looks:
        fitting = [cell for cell in free if is_barred(look, cell) == (split == "cell")] or free
        cells.append(fitting[int(rng.integers(len(fitting)))])
        free.remove(cells[-1])
    return cells


def pick(options: tuple[Look, ...], rng: np.random.Generator) -> Look:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def draw_filler(looks: list[Look], barred: set[Look], rng: np.random.Generator) -> Look:
    """Any allowed combination; two times in three it shares its colour or shape with a thing that is there."""
    options = tuple(look for look in LOOKS if look not in barred)
    side = int(rng.integers(3))
    if looks and side < 2:
        shared = looks[int(rng.integers(len(looks)))][side]
        options = tuple(look for look in options if look[side] == shared) or options
    return pick(options, rng)


def place(world: World, look: Look, cell: int, rng: np.random.Generator) -> Thing:
    """A thing somewhere in its cell; companions may be faint, with an anchor or without."""
    low, high = world.faint if look in COMPANIONS else world.opacity
    return Thing(
        shape=look[1],
        colour=look[0],
        cell=cell,
        radius=float(rng.uniform(5.0, 6.5)),
        shift=(float(rng.uniform(-1.5, 1.5)), float(rng.uniform(-1.5, 1.5))),
        opacity=float(rng.uniform(low, high)),
        tint=(float(rng.uniform(-20, 20)), float(rng.uniform(-20, 20)), float(rng.uniform(-20, 20))),
    )


def without_anchor(scene: Scene) -> Scene:
    """The same scene with the anchor in another colour of training, which announces no companion."""
    assert scene.pair is not None
    anchor, companion = PAIRS[scene.pair]
    place = next(thing.cell for thing in scene.things if thing.look == anchor)
    others = [look for look in LOOKS if look[1] == anchor[1] and look not in {*ANCHORS, *HELD_OUT, companion}]
    others = [look for look in others if not is_barred(look, place)]
    other = others[place % len(others)]
    things = tuple(replace(thing, colour=other[0]) if thing.look == anchor else thing for thing in scene.things)
    return Scene(things)
