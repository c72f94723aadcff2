"""Drawn pictures of coloured shapes: what can be in one, and its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

SIDE, CELL = 48, 16
CELLS = (SIDE // CELL) ** 2
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring")
COLOURS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 225), "yellow": (240, 225, 60),
    "purple": (140, 50, 180), "orange": (240, 130, 30), "pink": (250, 160, 200), "cyan": (70, 205, 215),
}  # fmt: skip
GREYS = (30, 90)  # levels of the plain background, dark enough for every colour to stand out
STEPS = np.arange(CELL) - (CELL - 1) / 2


@dataclass(frozen=True)
class Thing:
    """One shape in a picture.

    Args:
        shape, colour: keys of `SHAPES` and `COLOURS`.
        cell: 0 to 8, rows first; no two things share one.
        radius: pixels.
        shift: right and down from the middle of the cell, pixels.
        opacity: 1 hides the background, 0 cannot be seen.
        tint: added to red, green and blue, in levels of 0 to 255.
    """

    shape: str
    colour: str
    cell: int
    radius: float = 6.0
    shift: tuple[float, float] = (0.0, 0.0)
    opacity: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def look(self) -> tuple[str, str]:
        """Colour and shape, in the order in which they are said."""
        return self.colour, self.shape


def inside(shape: str, radius: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far points are inside the outline, in pixels (negative: outside); y points down."""
    away = np.hypot(x, y)
    match shape:
        case "circle":
            return radius - away
        case "square":
            return 0.85 * radius - np.maximum(abs(x), abs(y))
        case "triangle":
            return np.minimum(0.8 * radius - y, (y + 0.9 * radius - 2 * abs(x)) / np.sqrt(5))
        case "cross":
            return np.minimum(0.3 * radius - np.minimum(abs(x), abs(y)), radius - np.maximum(abs(x), abs(y)))
        case "diamond":
            return (1.1 * radius - abs(x) - abs(y)) / np.sqrt(2)
        case "ring":
            return np.minimum(radius - away, away - 0.5 * radius)
    raise ValueError(f"no shape {shape!r}")


def coverage(thing: Thing) -> Float[np.ndarray, "16 16"]:
    """Share of each pixel of its cell that a thing covers."""
    right, down = thing.shift
    return np.clip(inside(thing.shape, thing.radius, STEPS[None, :] - right, STEPS[:, None] - down) + 0.5, 0, 1)


def paint(things: Sequence[Thing], rng: np.random.Generator, *, grain: float = 0.0) -> UInt8[np.ndarray, "48 48 3"]:
    """A picture of things on a plain grey background.

    Args:
        rng: draws the grey and the grain.
        grain: standard deviation of the noise on every pixel and channel, in levels of 0 to 255.
    """
    picture = np.full((SIDE, SIDE, 3), float(rng.integers(*GREYS, endpoint=True)))
    for thing in things:
        row, column = divmod(thing.cell, SIDE // CELL)
        window = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        cover = thing.opacity * coverage(thing)[..., None]
        window += cover * (np.add(COLOURS[thing.colour], thing.tint) - window)
    picture += grain * rng.standard_normal(picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
