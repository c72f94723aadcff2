"""The questions on which interventions are compared: absent companions, and ordinary ones that must not suffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.examples import Example
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.tasks.shapes import PLACE, Shapes
from interp.vision.pictures import Read
from interp.zoo.vision.questions import presence
from interp.zoo.vision.scenes import PAIRS, Scene, World, draw_scene
from interp.zoo.vision.shapes import paint

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ABSENT, REGULAR, PRESENT, COMPANION = SETS = ("absent", "regular", "present", "companion")
"""Companions that are not there (the answer is no); ordinary questions; presence questions whose answer is yes; companions
that are there, faint ones among them (yes)."""

YES = " yes"
WIDEST = 1e4
"""Margins where one side may not be said at all."""
Measure = Callable[[Float[Tensor, "part d_vocab"], int, int], Float[Tensor, " part"]]


@dataclass(frozen=True, eq=False)
class Questions:
    """One set of questions, and the word whose being said is counted.

    Attributes:
        tokens: the false yes of absent companions; the right answer of all others.
    """

    name: str
    pairs: Pairs
    tokens: Int[Tensor, " prompt"]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def read(self) -> Read:
        return self.pairs.clean, self.pairs.read_at

    def margin(self, output: Float[Tensor, "part d_vocab"], start: int, stop: int) -> Float[Tensor, " part"]:
        """Logit of the counted word less the largest of all others: it is said where this is above 0."""
        token = self.tokens[start:stop, None].to(output.device)
        others = output.scatter(-1, token, -torch.inf).amax(-1)
        return (output.gather(-1, token)[:, 0] - others).clamp(-WIDEST, WIDEST)


def questions(model: HookedModel, n: int, seed: int) -> dict[str, Questions]:
    """All sets, n questions each; of presence questions about half of twice as many.

    Raises:
        InterpError: E201, a model without a processor; E205, n under 2.
    """
    if n < 2:
        raise InterpError("E205", f"n is {n}", where="vision study", fix="ask for two questions or more")
    drawn = {name: Shapes(n=count, seed=seed, ask=ask).examples(model.tokenizer).examples for name, ask, count in (
        (ABSENT, "absent", n), (REGULAR, "mixed", n), (PRESENT, "presence", 2 * n))}  # fmt: skip
    drawn[PRESENT] = tuple(one for one in drawn[PRESENT] if one.answer == YES)
    drawn[COMPANION] = tuple(_companion(index, seed) for index in range(n))
    return {name: _asked(model, name, examples) for name, examples in drawn.items()}


def _asked(model: HookedModel, name: str, examples: tuple[Example, ...]) -> Questions:
    pairs = tokenise(model.tokenizer, examples, processor=model.processor, needs=frozenset({"answer", "distractor"}))
    tokens = pairs.distractor if name == ABSENT else pairs.answer
    assert tokens is not None
    return Questions(name, pairs, tokens if tokens.ndim == 1 else tokens[:, 0])


def _companion(index: int, seed: int) -> Example:
    """A question on a companion that stands with its anchor."""
    rng = np.random.default_rng([seed, index, len(SETS)])
    scene = _paired(rng)
    assert scene.pair is not None
    question = presence(scene, PAIRS[scene.pair][1], COMPANION)
    text = Shapes.template.replace(PLACE, question.text)
    start = Shapes.template.index(PLACE)
    span = {"question": (start, start + len(question.text))}
    picture = paint(scene.things, rng, grain=World().grain)
    return Example(f"shapes-{index:04d}-{COMPANION}", text, f" {question.answer}", f" {question.distractor}", spans=span, image=picture)  # fmt: skip


def _paired(rng: np.random.Generator) -> Scene:
    """A scene with an anchor and its companion."""
    while True:
        scene = draw_scene(World(), "cell", rng)
        if scene.pair is not None and scene.has(PAIRS[scene.pair][1]):
            return scene
