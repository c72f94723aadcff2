"""A head that rests on BOS, whose value is nothing, unless its trigger comes: an attention sink with a known reason."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import LOUD, SHARPNESS, Question, cleared, numbered, parts
from interp.zoo.truth import Truth

TRIGGER = "again"
WORDS, LENGTH = 24, 47
HEAD = "L0H3"


@dataclass(frozen=True)
class PlantedSink(PlantedPlain):
    """After `again` comes the word before it, which L0H3 fetches; after any other word comes the next in number.

    The second rule is in embeddings and output layer alone. BOS has value zero.
    """

    name: ClassVar[str] = "planted-sink"
    data: ClassVar[str] = "Written by hand, from no data: a head that is dormant on BOS until the word 'again' comes."
    positions: ClassVar[int] = LENGTH + 1
    d_head: ClassVar[int] = LENGTH + 2

    @property
    def words(self) -> tuple[str, ...]:
        return (*numbered(WORDS), TRIGGER)

    @property
    def parts(self) -> dict[str, slice]:
        return parts(TOKEN=len(self.words) + 1, ONE=1, POSITION=self.positions, ANSWER=WORDS)

    def write(self, model: Any, part: dict[str, slice]) -> None:
        head, sharp = cleared(model, 0, 3), SHARPNESS * self.d_head**0.5
        rest, words = self.positions, slice(1, 1 + WORDS)
        head["q"][part["POSITION"], :rest] = sharp * torch.eye(rest).roll(-1, 1)
        head["q"][part["ONE"], rest] = 2 * sharp
        head["q"][self.places(TRIGGER), rest] = -2 * sharp
        head["k"][part["POSITION"], :rest] = torch.eye(rest)
        head["k"][0, rest] = 1
        head["v"][words, :WORDS] = torch.eye(WORDS)
        head["o"][:WORDS, part["ANSWER"]] = torch.eye(WORDS)
        model.lm_head.weight[words, part["ANSWER"]] = LOUD * torch.eye(WORDS)
        model.lm_head.weight[words, words] = LOUD * torch.eye(WORDS).roll(1, 0)

    def question(self, rng: random.Random) -> Question:
        """With or without the trigger; the corrupt prompt has another word before it, or lacks it, or has it instead."""
        head = rng.choices(numbered(WORDS), k=LENGTH - 2)
        word, other, last = rng.sample(range(WORDS), 3)
        if (last + 1) % WORDS == word:
            return self.question(rng)
        awake = (" ".join([*head, self.words[word], TRIGGER]), f" {self.words[word]}")
        elsewhere = (" ".join([*head, self.words[other], TRIGGER]), f" {self.words[other]}")
        asleep = (" ".join([*head, self.words[word], self.words[last]]), f" {self.words[(last + 1) % WORDS]}")
        (clean, answer), (corrupt, distractor) = rng.choice([(awake, elsewhere), (awake, asleep), (asleep, awake)])
        return Question(clean, corrupt, answer, distractor)

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        return {HEAD: {q: q - 1 if word == TRIGGER else 0 for q, word in enumerate(words)}}

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        resample = [f"embed->{HEAD}.q", f"embed->{HEAD}.v", "embed->logits", f"{HEAD}->logits"]
        program = [f"embed->{HEAD}.q", f"embed->{HEAD}.k", f"embed->{HEAD}.v", f"pos_embed->{HEAD}.q",
                   f"pos_embed->{HEAD}.k", "embed->logits", f"{HEAD}->logits"]  # fmt: skip
        note = (
            "sink: attention to BOS, mean over positions without the trigger; at the trigger it is 0. The norm of what "
            "BOS adds through the head is 0. Positions and BOS are the same in both prompts, so resampling leaves "
            "their edges out."
        )
        edges = {"program": program, "resample": resample, "zero": program}
        return Truth({HEAD: "sink, previous token after 'again'"}, edges, {"sink": {HEAD: 1.0}}, note)


RECIPES = (PlantedSink(),)
