"""A copy head: it looks for a name, wherever it stands, and makes it the next word."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import LOUD, SHARPNESS, Question, cleared, numbered, parts
from interp.zoo.truth import Truth

NAMES = ("Ann", "Bob", "Cora", "Dan", "Eve", "Finn", "Gina", "Hal", "Ida", "Jack", "Kim", "Leo")
FILLERS = numbered(20)
LENGTH = 14


def ask_for_name(rng: random.Random) -> Question:
    """Fillers with one name among them; in the corrupt prompt another name, elsewhere."""
    name, other = rng.sample(NAMES, 2)
    clean = rng.choices(FILLERS, k=LENGTH)
    corrupt = list(clean)
    here, there = rng.sample(range(LENGTH - 1), 2)
    clean[here], corrupt[there] = name, other
    return Question(" ".join(clean), " ".join(corrupt), f" {name}", f" {other}")


def name_seen_from_end(words: Sequence[str]) -> Mapping[int, int]:
    """From the last position to the name."""
    return {len(words) - 1: next(place for place, word in enumerate(words) if word in NAMES)}


@dataclass(frozen=True)
class PlantedCopy(PlantedPlain):
    """L0H2 attends to the name and writes it into ANSWER; before there is one, it rests on BOS and writes nothing."""

    name: ClassVar[str] = "planted-copy"
    data: ClassVar[str] = "Written by hand, from no data: a head that copies the one name of a prompt."
    d_head: ClassVar[int] = len(NAMES)

    @property
    def words(self) -> tuple[str, ...]:
        return FILLERS + NAMES

    @property
    def parts(self) -> dict[str, slice]:
        return parts(TOKEN=len(self.words) + 1, ONE=1, ANSWER=len(NAMES))

    def write(self, model: Any, part: dict[str, slice]) -> None:
        write_copy_head(cleared(model, 0, 2), self.places(*NAMES), part)
        model.lm_head.weight[self.places(*NAMES), range(part["ANSWER"].start, part["ANSWER"].stop)] = LOUD

    def question(self, rng: random.Random) -> Question:
        return ask_for_name(rng)

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        return {"L0H2": name_seen_from_end(words)}

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        moving = ["embed->L0H2.k", "embed->L0H2.v", "L0H2->logits"]
        program = ["embed->L0H2.q", *moving]
        note = (
            "copying: sum of the eigenvalues of W_E W_V W_O W_U over the sum of their absolute values; names alone are "
            "copied. The query is the same for every word, so resampling leaves embed->L0H2.q out."
        )
        edges = {"program": program, "resample": moving, "zero": program}
        return Truth({"L0H2": "copy"}, edges, {"copying": {"L0H2": 1.0}, "attention_to_name": {"L0H2": 1.0}}, note)


def write_copy_head(head: Mapping[str, torch.Tensor], names: list[int], part: Mapping[str, slice]) -> None:
    """All positions ask for names, and with half the score for BOS; names are copied into ANSWER."""
    sharp = SHARPNESS * head["q"].shape[1] ** 0.5
    head["q"][part["ONE"], 0] = sharp
    head["q"][part["ONE"], 1] = sharp / 2
    head["k"][names, 0] = 1
    head["k"][0, 1] = 1
    head["v"][names, : len(names)] = torch.eye(len(names))
    head["o"][: len(names), part["ANSWER"]] = torch.eye(len(names))


RECIPES = (PlantedCopy(),)
