"""Questions that `mini-vlm` was not trained on: ordinary ones, ones on absent companions, ones without a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from interp.zoo.vision.batch import Batch, Lexicon, pack
from interp.zoo.vision.questions import Question, ask, presence
from interp.zoo.vision.scenes import PAIRS, SPLITS, Scene, World, draw_scene, without_anchor
from interp.zoo.vision.shapes import paint

STREAM, SEED = 2, 1_000_003
QUESTIONS, COMPANION = 5, 0.2  # a picture; share of pictures with a question on a companion
CHUNK = 64


@dataclass(frozen=True)
class Quiz:
    """Pictures with their scenes and questions."""

    scenes: tuple[Scene, ...]
    pictures: tuple[np.ndarray, ...]
    questions: tuple[tuple[Question, ...], ...]

    def flat(self) -> list[Question]:
        """All questions in the order of the rows."""
        return [question for row in self.questions for question in row]

    def batches(self, lexicon: Lexicon) -> list[Batch]:
        """As forwards."""
        starts = range(0, len(self.pictures), CHUNK)
        return [pack(lexicon, self.pictures[i : i + CHUNK], self.questions[i : i + CHUNK]) for i in starts]


def regular(world: World, split: str, n: int, seed: int = SEED) -> Quiz:
    """Ordinary questions on `n` pictures of a split of `draw_scene`."""
    rng = np.random.default_rng([seed, STREAM, SPLITS.index(split)])
    scenes = tuple(draw_scene(world, split, rng) for _ in range(n))
    pictures = tuple(paint(scene.things, rng, grain=world.grain) for scene in scenes)
    return Quiz(scenes, pictures, tuple(tuple(ask(scene, QUESTIONS, COMPANION, rng)) for scene in scenes))


def adversarial(world: World, n: int, seed: int = SEED) -> tuple[Quiz, Quiz]:
    """Anchors without their companion, asked about it; and the same pictures with the anchor in another colour.

    The answer is always no. What the second quiz's rate of yes falls short of the first's is due to the anchor.
    """
    rng = np.random.default_rng([seed, STREAM, len(SPLITS)])
    scenes = tuple(draw_scene(world, "absent", rng) for _ in range(n))
    twins = tuple(map(without_anchor, scenes))
    questions = tuple((presence(scene, companion_of(scene), "companion"),) for scene in scenes)
    seeds = rng.integers(2**32, size=n).tolist()
    first, second = (
        Quiz(version, tuple(paint_seeded(scene, world, k) for scene, k in zip(version, seeds, strict=True)), questions)
        for version in (scenes, twins)
    )
    return first, second


def companion_of(scene: Scene) -> tuple[str, str]:
    """What nearly always stands with the scene's anchor."""
    assert scene.pair is not None
    return PAIRS[scene.pair][1]


def paint_seeded(scene: Scene, world: World, seed: int) -> np.ndarray:
    """A picture whose background and grain depend on the seed alone."""
    return paint(scene.things, np.random.default_rng([seed, STREAM]), grain=world.grain)


def blank(quiz: Quiz, world: World) -> Quiz:
    """The same questions on pictures with nothing in them."""
    return replace(quiz, pictures=tuple(paint_seeded(Scene(()), world, k) for k in range(len(quiz.pictures))))
