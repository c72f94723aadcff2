"""A linear chain: attention depends on positions alone, so the effect of every edge has a closed form."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.zoo.edges import sweep
from interp.zoo.planted.base import PlantedPlain
from interp.zoo.planted.writing import BOS, SHARPNESS, Question, cleared, parts
from interp.zoo.truth import Truth

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.zoo.planted.figures import Asked

GAINS = {
    "embed->L0H0.v": 1.0,
    "embed->L0H1.v": 1.0,
    "L0H0->L1H0.v": 2.0,
    "L0H1->L1H0.v": -1.0,
    "L0H1->L1H1.v": 0.5,
    "L1H0->L2H0.v": 1.0,
    "L1H1->L2H0.v": 3.0,
    "L0H0->L2H1.v": -0.5,
    "embed->L2H1.v": 0.25,
    "L0H1->logits": 0.5,
    "L2H0->logits": 1.0,
    "L2H1->logits": 2.0,
}
"""What a reader adds of each writer's number."""

HEADS = ("L0H0", "L0H1", "L1H0", "L1H1", "L2H0", "L2H1")
HIGH, LOW = "high", "low"
NUMBERS = tuple(str(number) for number in range(-5, 6))
LENGTH = 8


def incoming(reader: str) -> dict[str, float]:
    """Writers that a head, or `logits`, reads, with their gains."""
    split = {edge: edge.removesuffix(".v").split("->") for edge in GAINS}
    return {writer: GAINS[edge] for edge, (writer, target) in split.items() if target == reader}


def carried(previous: float, current: float) -> dict[str, float]:
    """The number that each edge carries to the last position, for the last two numbers of a prompt."""
    values = {"embed": current}
    for head in HEADS:
        values[head] = sum(gain * values[writer] for writer, gain in incoming(head).items())
        if head == "L0H0":
            values[head] = previous
    numbers = {edge: values[edge.split("->")[0]] for edge in GAINS}
    return {**numbers, "embed->L0H0.v": previous}


def slopes() -> dict[str, float]:
    """By how much the logit of `high` minus that of `low` rises with the number that each edge carries."""
    through = {"logits": 2.0}
    for head in reversed(HEADS):
        readers = {reader: incoming(reader).get(head, 0.0) for reader in (*HEADS, "logits")}
        through[head] = sum(gain * through[reader] for reader, gain in readers.items() if gain)
    return {edge: gain * through[edge.split("->")[1].removesuffix(".v")] for edge, gain in GAINS.items()}


def rise(edited: Float[Tensor, "edge batch pos d_vocab"], clean: Float[Tensor, "batch pos d_vocab"]) -> Tensor:
    """By how much `high` rises over `low`, mean over prompts; the unknown word comes after them in the vocabulary."""
    low, high = -2, -3
    return ((edited[..., high] - edited[..., low]) - (clean[..., high] - clean[..., low])).mean((1, 2))


@dataclass(frozen=True)
class PlantedChain(PlantedPlain):
    """Is p + 1.5 c above zero, for the last two numbers p and c of a prompt? Three layers of two heads, all linear.

    L0H0 attends to the word before, every other head to its own place. Each head adds up the numbers that it reads,
    with the gains of `GAINS`, and writes the sum into a dimension of its own.
    """

    name: ClassVar[str] = "planted-chain"
    data: ClassVar[str] = "Written by hand, from no data: heads that add up numbers with known gains, without noise."
    layers: ClassVar[int] = 3
    heads: ClassVar[int] = 2
    positions: ClassVar[int] = LENGTH + 1
    d_head: ClassVar[int] = LENGTH + 1

    noise: float = 0.0

    @property
    def words(self) -> tuple[str, ...]:
        return (*NUMBERS, HIGH, LOW)

    @property
    def parts(self) -> dict[str, slice]:
        own = dict.fromkeys(HEADS, 1)
        return parts(TOKEN=len(self.words) + 1, ONE=1, POSITION=self.positions, embed=1, **own)

    def write(self, model: Any, part: dict[str, slice]) -> None:
        model.model.embed_tokens.weight[self.places(*NUMBERS), part["embed"].start] = torch.arange(-5.0, 6.0)
        sharp, here = SHARPNESS * self.d_head**0.5, torch.eye(self.positions)
        for label in HEADS:
            head = cleared(model, int(label[1]), int(label[3]))
            head["q"][part["POSITION"]] = sharp * (here.roll(-1, 1) if label == "L0H0" else here)
            head["k"][part["POSITION"]] = here
            for writer, gain in incoming(label).items():
                head["v"][part[writer], 0] = gain
            head["o"][0, part[label]] = 1
        for writer, gain in incoming("logits").items():
            model.lm_head.weight[self.places(HIGH), part[writer]] = gain
            model.lm_head.weight[self.places(LOW), part[writer]] = -gain

    def question(self, rng: random.Random) -> Question:
        """Two rows of numbers, one above zero and one below."""
        rows = [rng.choices(range(-5, 6), k=LENGTH) for _ in range(2)]
        scores = [row[-2] + 1.5 * row[-1] for row in rows]
        if min(map(abs, scores)) < 1 or scores[0] * scores[1] > 0:
            return self.question(rng)
        clean, corrupt = (" ".join(map(str, row)) for row in rows)
        words = (f" {HIGH}", f" {LOW}")
        answer, distractor = words if scores[0] > 0 else words[::-1]
        return Question(clean, corrupt, answer, distractor)

    def targets(self, words: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
        places = range(1, len(words))
        return {head: {q: q - (head == "L0H0") for q in places} for head in HEADS}

    def more(self, model: HookedModel, asked: Asked) -> dict[str, Any]:
        """Largest difference between the sweep and the closed form, over edges and ablations, in logits."""
        adapter: Any = model.adapter
        clean, corrupt = ([carried(*last_two(row[name])) for row in asked.rows] for name in ("clean", "corrupt"))
        worst = 0.0
        for ids, others in ((asked.corrupt, corrupt), (None, [dict.fromkeys(GAINS, 0.0)] * len(clean))):
            found = sweep(adapter.model, asked.clean, ids, at=slice(-1, None), measure=rise)
            for edge, slope in slopes().items():
                changes = [after[edge] - before[edge] for before, after in zip(clean, others, strict=True)]
                worst = max(worst, abs(found[edge] - slope * sum(changes) / len(changes)))
        return {"largest difference to the closed form": round(worst, 5)}

    def truth(self) -> Truth:
        """See `Recipe.truth`."""
        moving = list(GAINS)
        seeing = [f"pos_embed->{head}.{part}" for head in HEADS for part in "qk"]
        heads = {head: "adds up its own place" for head in HEADS} | {"L0H0": "previous number"}
        note = (
            "logit_diff_per_unit is stated for edges: by how much the logit of 'high' minus that of 'low' rises for "
            "each unit of the number that the edge carries; the change of an edge's number times this is the exact "
            "effect of the edge. Positions are the same in both prompts, so resampling leaves their edges out."
        )
        edges = {"program": [*moving, *seeing], "resample": moving, "zero": [*moving, *seeing]}
        return Truth(heads, edges, {"logit_diff_per_unit": slopes()}, note)


def last_two(prompt: str) -> tuple[float, float]:
    """The last two numbers of a prompt."""
    previous, current = prompt.removeprefix(BOS).split()[-2:]
    return float(previous), float(current)


RECIPES = (PlantedChain(),)
