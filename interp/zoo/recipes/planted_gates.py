"""Gates: two heads report a word each, and an MLP joins the reports by OR or by AND."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import LOUD, SHARPNESS, Question, cleared, numbered, parts
from interp.zoo.truth import Truth

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.zoo.planted.figures import Asked

REPORTERS = {"L0H1": "red", "L0H3": "blue"}
FILLERS, LENGTH = numbered(16), 14
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Gate(PlantedPlain):
    """L0H1 reports `red` anywhere before, L0H3 `blue`; where its word is missing a head rests on BOS and reports nothing.

    The MLP's first neurons are the gate. The output layer says `yes` twice as loud as the constant `no`.
    """

    d_head: ClassVar[int] = 8
    neurons: ClassVar[int] = 8
    positions: ClassVar[int] = LENGTH + 1

    @property
    def words(self) -> tuple[str, ...]:
        return (*FILLERS, *REPORTERS.values(), YES, NO)

    @property
    def parts(self) -> dict[str, slice]:
        return parts(TOKEN=len(self.words) + 1, ONE=1, RED=1, BLUE=1, GATE=1)

    @staticmethod
    @abstractmethod
    def opens(red: bool, blue: bool) -> bool:
        """What the gate says."""

    @abstractmethod
    def write_gate(self, into: Tensor, out: Tensor, part: Mapping[str, slice]) -> None:
        """Write the neurons: weights from the stream [neuron d_model] and to the stream [d_model neuron]."""

    def write(self, model: Any, part: dict[str, slice]) -> None:
        sharp = SHARPNESS * self.d_head**0.5
        for head, (word, slot) in zip((1, 3), zip(REPORTERS.values(), ("RED", "BLUE"), strict=True), strict=True):
            view, place = cleared(model, 0, head), self.places(word)
            view["q"][part["ONE"], 0] = sharp
            view["q"][part["ONE"], 1] = sharp / 2
            view["k"][place, 0] = 1
            view["k"][0, 1] = 1
            view["v"][place, 0] = 1
            view["o"][0, part[slot]] = 1
        mlp = model.model.layers[0].mlp
        mlp.up_proj.weight[:2], mlp.down_proj.weight[:, :2] = 0, 0
        self.write_gate(mlp.up_proj.weight, mlp.down_proj.weight, part)
        model.lm_head.weight[self.places(YES), part["GATE"]] = 2 * LOUD
        model.lm_head.weight[self.places(NO), part["ONE"]] = LOUD

    def prompt(self, fillers: Sequence[str], places: Sequence[int], red: bool, blue: bool) -> str:
        """Fillers with `red` and `blue` at two places, where they are wanted."""
        words = list(fillers)
        for place, (word, present) in zip(places, zip(REPORTERS.values(), (red, blue), strict=True), strict=True):
            words[place] = word if present else words[place]
        return " ".join(words)

    def question(self, rng: random.Random) -> Question:
        """Both words in the clean prompt, neither in the corrupt one."""
        fillers, places = rng.choices(FILLERS, k=LENGTH), rng.sample(range(LENGTH - 1), 2)
        clean, corrupt = (self.prompt(fillers, places, present, present) for present in (True, False))
        return Question(clean, corrupt, f" {YES}", f" {NO}")

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        return {head: {len(words) - 1: words.index(word)} for head, word in REPORTERS.items()}

    def more(self, model: HookedModel, asked: Asked) -> dict[str, Any]:
        """Share of right answers for each combination of the two words."""
        rng, found = random.Random(self.name), {}
        for red, blue in product((False, True), repeat=2):
            prompts = [
                self.prompt(rng.choices(FILLERS, k=LENGTH), rng.sample(range(LENGTH - 1), 2), red, blue)
                for _ in range(16)
            ]
            right = self.places(YES if self.opens(red, blue) else NO)[0]
            said = model(prompts)[:, -1].argmax(-1)
            found[f"red {red:d} blue {blue:d}"] = float((said == right).float().mean())
        return {"truth_table": found}

    def edges(self) -> dict[str, list[str]]:
        """What the weights were written from."""
        into = [f"embed->{head}.{part}" for head in REPORTERS for part in "qkv"]
        out = [f"{head}->M0" for head in REPORTERS]
        return {"program": [*into, *out, "embed->M0", "embed->logits", "M0->logits"]}


@dataclass(frozen=True)
class PlantedOr(Gate):
    """Either word is enough."""

    name: ClassVar[str] = "planted-or"
    data: ClassVar[str] = "Written by hand, from no data: two heads report a word each, either is enough for 'yes'."

    @staticmethod
    def opens(red: bool, blue: bool) -> bool:
        return red or blue

    def write_gate(self, into: Tensor, out: Tensor, part: Mapping[str, slice]) -> None:
        """min(1, red + blue), as relu(red + blue) - relu(red + blue - 1)."""
        for neuron, (threshold, sign) in enumerate(((0.0, 1.0), (1.0, -1.0))):
            into[neuron, part["RED"]] = into[neuron, part["BLUE"]] = 1
            into[neuron, part["ONE"]] = -threshold
            out[part["GATE"], neuron] = sign

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        edges = {
            **self.edges(),
            "resample": ["M0->logits"],
            "zero": ["embed->M0", "embed->logits", "M0->logits"],
        }
        note = (
            "Both words stand in the clean prompts, so taking away one head, or any edge of one head, changes nothing; "
            "taking away both heads changes every answer."
        )
        return Truth(heads_of("either suffices"), edges, {"attention_to_word": dict.fromkeys(REPORTERS, 1.0)}, note)


@dataclass(frozen=True)
class PlantedAnd(Gate):
    """Both words are needed."""

    name: ClassVar[str] = "planted-and"
    data: ClassVar[str] = "Written by hand, from no data: two heads report a word each, both are needed for 'yes'."

    @staticmethod
    def opens(red: bool, blue: bool) -> bool:
        return red and blue

    def write_gate(self, into: Tensor, out: Tensor, part: Mapping[str, slice]) -> None:
        """relu(red + blue - 1)."""
        into[0, part["RED"]] = into[0, part["BLUE"]] = 1
        into[0, part["ONE"]] = -1
        out[part["GATE"], 0] = 1

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        moving = [f"embed->{head}.{part}" for head in REPORTERS for part in "kv"]
        moving += [*(f"{head}->M0" for head in REPORTERS), "M0->logits"]
        edges = self.edges() | {"resample": moving}
        edges["zero"] = edges["program"]
        note = (
            "Taking away either head turns every answer. The query is the same for every word, so resampling leaves "
            "embed->q out."
        )
        return Truth(heads_of("both needed"), edges, {"attention_to_word": dict.fromkeys(REPORTERS, 1.0)}, note)


def heads_of(how: str) -> dict[str, str]:
    """What the two heads do."""
    return {head: f"reports {word!r}, {how}" for head, word in REPORTERS.items()}


RECIPES = (PlantedOr(), PlantedAnd())
