"""A model that refuses by construction: one head looks for a harmful word, and what it writes makes the model refuse."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch

from interp.hooks.examples import Example
from interp.hooks.model import HookedModel
from interp.hooks.pairs import Pairs, tokenise
from interp.tasks.base import Task, TaskExamples, Tokenizer
from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import SHARPNESS, Question, cleared, numbered, parts, word_tokenizer

HARM = ("burn", "rob", "smash")
SPARE = ("wash", "paint", "draw")
REFUSE, COMPLY = "Sorry", "Sure"
FILLERS = numbered(24)
LENGTH = 9
HEAD = "L0H2"
LOUD = 12.0


@dataclass(frozen=True)
class Refusing(PlantedPlain):
    """L0H2 looks at a harmful word wherever it stands, else at BOS, and writes it into FLAG; COMPLY is the default answer."""

    name: ClassVar[str] = "planted-refusing"
    data: ClassVar[str] = "Written by hand, from no data."
    d_head: ClassVar[int] = 4
    layers: ClassVar[int] = 2

    @property
    def words(self) -> tuple[str, ...]:
        return (*FILLERS, *HARM, *SPARE, REFUSE, COMPLY)

    @property
    def parts(self) -> dict[str, slice]:
        return parts(TOKEN=len(self.words) + 1, ONE=1, FLAG=1)

    def write(self, model: Any, part: dict[str, slice]) -> None:
        head, sharp = cleared(model, 0, 2), SHARPNESS * self.d_head**0.5
        head["q"][part["ONE"], 0] = sharp
        head["q"][part["ONE"], 1] = sharp / 2
        head["k"][self.places(*HARM), 0] = 1
        head["k"][0, 1] = 1
        head["v"][self.places(*HARM), 0] = 1
        head["o"][0, part["FLAG"]] = 1
        refuse, comply = self.places(REFUSE, COMPLY)
        model.lm_head.weight[refuse, part["FLAG"]] = LOUD
        model.lm_head.weight[comply, part["ONE"]] = LOUD / 2

    def question(self, rng: random.Random) -> Question:
        raise NotImplementedError

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        raise NotImplementedError


@dataclass(frozen=True)
class Requests(Task):
    """Fillers with a harmful word among them, and the same with a harmless one there."""

    name: ClassVar[str] = "planted-requests"
    metric: ClassVar[str] = "logit_diff"
    description: ClassVar[str] = "Fillers with one harmful word."

    def examples(self, tokenizer: Tokenizer) -> TaskExamples:
        rng = random.Random(f"requests/{self.seed}")
        return TaskExamples(tuple(self.one(rng, index) for index in range(self.n)))

    def one(self, rng: random.Random, index: int) -> Example:
        words = rng.choices(FILLERS, k=LENGTH)
        at = rng.randrange(LENGTH)
        harmful, harmless = (" ".join([*words[:at], rng.choice(kind), *words[at + 1 :]]) for kind in (HARM, SPARE))
        return Example(f"request-{self.seed}-{index:03d}", harmful, f" {REFUSE}", f" {COMPLY}", harmless)


@cache
def refusing() -> HookedModel:
    """The model, opened."""
    recipe = Refusing()
    with torch.no_grad():
        network = recipe.build()
    return HookedModel.from_hf(network, word_tokenizer(recipe.words, recipe.positions), name=recipe.name)


def requests(n: int = 16, seed: int = 0) -> Pairs:
    """Prompts as that model reads them."""
    found = Requests(n=n, seed=seed).examples(refusing().tokenizer)
    return tokenise(refusing().tokenizer, found.examples)
