"""Figures of a model trained to order: does it answer, are the variables where they should be, is the rest inert?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.zoo.edges import mattering, sweep
from interp.zoo.ordered.interchange import UNASKED, Alignment, Lesson, Outcome, Program, everywhere, outside, run
from interp.zoo.ordered.noise import decodable, likeness, most_frequent, node_weights, structure
from interp.zoo.plain import PlainTransformer

N = 1024
SWEPT = 32
"""Prompts on which every edge is tried."""

FLOOR = 0.03
"""An edge matters where its effect is over this share of the largest one: trained weights are never quite without."""

SEED = 99
"""Of the prompts; no training draws by it."""


class Questions:
    """Freshly drawn prompts, each with another one that values are taken over from.

    There are few possible prompts, so training has seen many of them; what is held out is which values meet which.
    """

    def __init__(self, model: Any, program: Program, alignment: Alignment, n: int, seed: int = SEED) -> None:
        rng = np.random.default_rng([seed])
        self.lesson = Lesson(model, program, alignment, program.draw(rng, n).to(model.device))
        self.order = torch.from_numpy(rng.permutation(n))
        self.plain = self.lesson.plain()
        self.asked = self.plain.answer != UNASKED
        self.idle = outside(alignment, self.plain.run.outputs)

    def swapped(self, *names: str) -> Outcome:
        """Variables or nodes taken over in every prompt."""
        return self.lesson.exchange(everywhere(names, len(self.order)), self.plain, self.order)

    def accuracy(self) -> float:
        """Share of asked positions with the right answer."""
        return share(self.plain.said == self.plain.answer, self.asked)

    def interchange(self) -> dict[str, dict[str, float]]:
        """Share of right answers with each variable taken over, and the same where that changes the right answer."""
        found = {}
        for name in self.lesson.alignment:
            swapped = self.swapped(name)
            hits = swapped.said == swapped.answer
            found[name] = {
                "all": share(hits, swapped.answer != UNASKED),
                "where it matters": share(hits, self.matters(swapped.answer)),
            }
        return found

    def misplaced(self) -> float:
        """The control: largest share of right answers, where it matters, if an idle node is taken for a variable's."""
        said = [self.swapped(node).said for node in self.idle]
        right = [self.swapped(name).answer for name in self.lesson.alignment]
        return max(share(one == answer, self.matters(answer)) for one in said for answer in right)

    def changes(self, *nodes: str) -> float:
        """Share of asked positions where taking over these nodes changes what the model says."""
        return share(self.swapped(*nodes).said != self.plain.said, self.asked)

    def matters(self, answer: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Where the right answer has become another one."""
        return self.asked & (answer != UNASKED) & (answer != self.plain.answer)


@torch.no_grad()
def summary(model: Any, program: Program, alignment: Alignment, n: int = 256) -> dict[str, float]:
    """The bars in brief."""
    asked = Questions(model, program, alignment, n)
    return {
        "accuracy": asked.accuracy(),
        **{f"interchange {name}": found["where it matters"] for name, found in asked.interchange().items()},
        "largest change": max(asked.changes(node) for node in asked.idle),
        "change of all": asked.changes(*asked.idle),
    }


@torch.no_grad()
def figures(
    program: Program,
    alignment: Alignment,
    folder: Path,
    untrained: PlainTransformer,
    truth: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What `Ordered.measure` returns; shares of asked positions of `N` freshly drawn prompts.

    Args:
        untrained: the model as training began with it.
        truth: edges that are stated, see `Truth.edges`.
    """
    model: Any = PlainTransformer.from_pretrained(folder)
    asked = Questions(model, program, alignment, N)
    return {
        "prompts": N,
        "accuracy": asked.accuracy(),
        "interchange": asked.interchange(),
        "interchange with an idle node instead": asked.misplaced(),
        "change by idle nodes": {node: asked.changes(node) for node in asked.idle}
        | {"all together": asked.changes(*asked.idle)},
        "noise": noise(untrained, asked),
        "edges": edges(edge_effects(program, model, folder), truth),
    }


def noise(fresh: PlainTransformer, asked: Questions) -> dict[str, Any]:
    """Weights and outputs of true and idle nodes, means; see `interp.zoo.ordered.noise`."""
    answer, idle = asked.plain.answer, asked.idle
    weights, first = dict(node_weights(asked.lesson.model)), dict(node_weights(fresh))
    structures = {name: structure(matrices) for name, matrices in weights.items()}
    alike = {name: likeness(matrices, first[name]) for name, matrices in weights.items()}
    read = decodable(asked.plain.run.outputs, answer, asked.asked)
    untrained = decodable(run(fresh, asked.lesson.ids).outputs, answer, asked.asked)
    true = [name for name in structures if name not in idle]
    return {
        "structure": {"idle": mean(structures, idle), "true": mean(structures, true)},
        "left of the first draw": {"idle": mean(alike, idle), "true": mean(alike, true)},
        "answer read out": {
            "idle": mean(read, idle),
            "true": mean(read, true),
            "idle before training": mean(untrained, idle),
            "most frequent answer": most_frequent(answer, asked.asked),
        },
    }


def edges(effects: Mapping[str, float], truth: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The exact sweep under resampling against what the recipe states; effects in shares of the largest one."""
    strong, told = set(mattering(effects, FLOOR)), set(truth["resample"])
    largest = max(effects.values())
    rest = [effect for edge, effect in effects.items() if edge not in told]
    return {
        "tried": len(effects),
        "stated": len(told),
        "missing": sorted(told - strong),
        "unstated": sorted(strong - told),
        "weakest stated": min(effects[edge] for edge in told) / largest,
        "strongest other": max(rest) / largest,
        "program without effect": sorted(set(truth["program"]) - strong),
    }


def edge_effects(program: Program, model: Any, folder: Path) -> dict[str, float]:
    """Mean KL divergence, at asked positions of the bundled prompts, that resampling each edge from its pair brings."""
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text("utf-8").splitlines()[:SWEPT]]
    clean, corrupt = (
        torch.tensor([[0, *(program.words.index(word) + 1 for word in row[side].split())] for row in rows])
        for side in ("clean", "corrupt")
    )
    asked = program.run(clean)["answer"] != UNASKED

    def divergence(
        edited: Float[Tensor, "edge batch pos d_vocab"], plain: Float[Tensor, "batch pos d_vocab"]
    ) -> Float[Tensor, " edge"]:
        expected = plain.log_softmax(-1)
        return (expected.exp() * (expected - edited.log_softmax(-1))).sum(-1)[:, asked].mean(-1)

    return sweep(model, clean, corrupt, measure=divergence)


def mean(values: Mapping[str, float], names: Sequence[str]) -> float:
    """Over the named ones."""
    return sum(values[name] for name in names) / len(names)


def share(hits: Tensor, among: Tensor) -> float:
    """Share of `hits` among those that count."""
    return float(hits[among].float().mean())
