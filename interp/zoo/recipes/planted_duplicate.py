"""A duplicate-token head: was the last word there before?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import LOUD, SHARPNESS, Question, cleared, numbered, parts
from interp.zoo.truth import Truth

NEW, SEEN = "new", "seen"
WORDS, LENGTH = 24, 20
HEAD = "L0H1"


@dataclass(frozen=True)
class PlantedDuplicate(PlantedPlain):
    """L0H1 attends to earlier places of the same word, never to its own; where there is none, to BOS.

    It writes SEEN in the one case and NEW in the other, which the output layer says.
    """

    name: ClassVar[str] = "planted-duplicate"
    data: ClassVar[str] = "Written by hand, from no data: a head that finds earlier occurrences of the same word."
    positions: ClassVar[int] = LENGTH + 1
    d_head: ClassVar[int] = 1 + WORDS + LENGTH + 1

    @property
    def words(self) -> tuple[str, ...]:
        return (*numbered(WORDS), NEW, SEEN)

    @property
    def parts(self) -> dict[str, slice]:
        return parts(TOKEN=len(self.words) + 1, ONE=1, POSITION=self.positions, NEW=1, SEEN=1)

    def write(self, model: Any, part: dict[str, slice]) -> None:
        head, sharp = cleared(model, 0, 1), SHARPNESS * self.d_head**0.5
        words, places = slice(1, 1 + WORDS), slice(1 + WORDS, None)
        head["q"][part["ONE"], 0] = sharp / 2
        head["q"][words, words] = sharp * torch.eye(WORDS)
        head["q"][part["POSITION"], places] = -sharp * torch.eye(self.positions)
        head["k"][0, 0] = 1
        head["k"][words, words] = torch.eye(WORDS)
        head["k"][part["POSITION"], places] = torch.eye(self.positions)
        head["v"][0, 0] = 1
        head["v"][words, 1] = 1
        head["o"][0, part["NEW"]] = 1
        head["o"][1, part["SEEN"]] = 1
        model.lm_head.weight[self.places(NEW), part["NEW"]] = LOUD
        model.lm_head.weight[self.places(SEEN), part["SEEN"]] = LOUD

    def question(self, rng: random.Random) -> Question:
        """The last word came before in one of the two prompts; they differ in the last word or in the earlier one."""
        *words, fresh = rng.sample(numbered(WORDS), LENGTH)
        place = rng.randrange(len(words))
        repeats = [*words, words[place]]
        differs = [*words, fresh] if rng.random() < 0.5 else [*words[:place], fresh, *words[place + 1 :], words[place]]
        prompts = [(" ".join(repeats), f" {SEEN}"), (" ".join(differs), f" {NEW}")]
        (clean, answer), (corrupt, distractor) = rng.sample(prompts, 2)
        return Question(clean, corrupt, answer, distractor)

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        last = len(words) - 1
        return {HEAD: {last: words.index(words[last]) if words[last] in words[:last] else 0}}

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        deciding = [f"embed->{HEAD}.q", f"embed->{HEAD}.k", f"{HEAD}->logits"]
        program = [f"{writer}->{HEAD}.{part}" for writer, part in (*zip(["embed"] * 3, "qkv", strict=True),
                   ("pos_embed", "q"), ("pos_embed", "k"))] + [f"{HEAD}->logits"]  # fmt: skip
        note = (
            "duplicate_token: attention to earlier places of the same word, mean over positions that have one. Values "
            f"tell words from BOS only and positions are the same in both prompts, so resampling leaves embed->{HEAD}.v "
            "and the edges of positions out."
        )
        edges = {"program": program, "resample": deciding, "zero": program}
        return Truth({HEAD: "duplicate token"}, edges, {"duplicate_token": {HEAD: 1.0}}, note)


RECIPES = (PlantedDuplicate(),)
