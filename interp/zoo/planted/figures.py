"""Figures of a planted model: does it answer, do its heads look where they must, and does every edge count that should?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import interp.zoo.plain  # noqa: F401  (registers its architecture)
from interp.zoo.edges import mattering, sweep
from interp.zoo.planted.writing import BOS

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.zoo.planted.base import Planted

SWEPT = 8
"""Questions on which every edge is tried."""


class Asked:
    """The bundled questions as tokens."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        lines = (folder / "examples.jsonl").read_text("utf-8").splitlines()
        self.rows: list[dict[str, str]] = [json.loads(line) for line in lines]
        self.clean, self.corrupt = (self._tokens(tokenizer, name) for name in ("clean", "corrupt"))
        self.answer, self.distractor = (self._tokens(tokenizer, name)[:, -1] for name in ("answer", "distractor"))

    @property
    def words(self) -> list[list[str]]:
        """The clean prompts word by word, BOS first."""
        return [[BOS, *row["clean"].split()] for row in self.rows]

    def _tokens(self, tokenizer: Any, name: str) -> Int[Tensor, "batch pos"]:
        return torch.tensor([tokenizer(row[name])["input_ids"] for row in self.rows])

    def logit_diff(self, logits: Float[Tensor, "batch pos d_vocab"]) -> float:
        """Mean logit of the answer minus that of the distractor, at the end."""
        rows = torch.arange(len(self.rows))
        return float((logits[rows, -1, self.answer] - logits[rows, -1, self.distractor]).mean())


def figures(recipe: Planted, folder: Path) -> dict[str, Any]:
    """What `Planted.measure` returns."""
    from interp.hooks.loading import open_folder

    model = open_folder(folder, name=recipe.name)
    asked = Asked(folder, model.tokenizer)
    truth = recipe.truth()
    assert truth is not None
    adapter: Any = model.adapter
    some = slice(None, None, max(1, len(asked.rows) // SWEPT))
    return {
        "questions": len(asked.rows),
        "accuracy": accuracies(model, asked),
        "attention": attention(recipe, model, asked),
        "logit_diff": round(asked.logit_diff(model(asked.clean)), 3),
        "logit_diff_lost": losses(model, asked, sorted(truth.heads)),
        "edges": edge_figures(
            adapter.model,
            asked.clean[some],
            asked.corrupt[some],
            truth.edges,
            floor=recipe.floor,
            at=slice(-1, None),
        ),
        **recipe.more(model, asked),
    }


def accuracies(model: HookedModel, asked: Asked) -> dict[str, float]:
    """Share of prompts on which the right word has the largest logit: the distractor is right for the corrupt prompt."""
    pairs = {"clean": (asked.clean, asked.answer), "corrupt": (asked.corrupt, asked.distractor)}
    return {name: float((model(ids)[:, -1].argmax(-1) == right).float().mean()) for name, (ids, right) in pairs.items()}


def attention(recipe: Planted, model: HookedModel, asked: Asked) -> dict[str, dict[str, float]]:
    """Mean attention of each true head to its targets, and the largest one of any head that has no part."""
    _, cache = model.run_with_cache(asked.clean, names="blocks.*.attn.hook_pattern")
    patterns = {
        f"L{layer}H{head}": cache[f"blocks.{layer}.attn.hook_pattern"][:, head]
        for layer, heads in enumerate(model.heads[""])
        for head in range(heads)
    }
    targets = [recipe.targets(words) for words in asked.words]
    found: dict[str, dict[str, float]] = {"true": {}, "largest other": {}}
    for label in targets[0]:
        mine = [target[label] for target in targets]
        found["true"][label] = round(on_target(patterns[label], mine), 4)
        others = [on_target(pattern, mine) for other, pattern in patterns.items() if other not in targets[0]]
        if others:
            found["largest other"][label] = round(max(others), 4)
    return found


def on_target(pattern: Float[Tensor, "batch query_pos key_pos"], targets: Sequence[Mapping[int, int]]) -> float:
    """Mean attention from the queries to the keys that are named, over all prompts."""
    cells = [(row, q, k) for row, target in enumerate(targets) for q, k in target.items()]
    return float(pattern[tuple(torch.tensor(cells).T)].mean())


def losses(model: HookedModel, asked: Asked, true: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of the logit difference that is lost with one head, for true heads and the costliest other."""
    from interp.hooks.interventions import Ablate
    from interp.hooks.reference import paired_reference

    every = [f"L{layer}H{head}" for layer, heads in enumerate(model.heads[""]) for head in range(heads)]
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.n_layers)]
    other_run = paired_reference(model, [model.batch(asked.corrupt)], names, "the corrupt prompt of each pair")
    whole = asked.logit_diff(model(asked.clean))
    found: dict[str, dict[str, float]] = {}
    for operator, reference in (("zero", None), ("resample", other_run)):
        lost = {}
        for label in every:
            with model.edit(Ablate(heads=[label], operator=operator, reference=reference)):
                lost[label] = round(1 - asked.logit_diff(model(asked.clean)) / whole, 3)
        rest = [abs(share) for label, share in lost.items() if label not in true]
        found[operator] = {label: lost[label] for label in true} | ({"largest other": max(rest)} if rest else {})
    return found


def edge_figures(
    model: Any,
    clean: Int[Tensor, "batch pos"],
    corrupt: Int[Tensor, "batch pos"],
    stated: Mapping[str, Sequence[str]],
    *,
    floor: float,
    at: slice,
) -> dict[str, Any]:
    """The exact sweep against what a recipe states, and how far apart the weakest stated and the strongest other are.

    Effects are in shares of the largest one.
    """
    found = {}
    for kind, others in (("resample", corrupt), ("zero", None)):
        effects = sweep(model, clean, others, at=at)
        strong, told = set(mattering(effects, floor)), set(stated[kind])
        largest = max(effects.values())
        rest = [effect for edge, effect in effects.items() if edge not in told]
        found[kind] = {
            "tried": len(effects),
            "stated": len(told),
            "missing": sorted(told - strong),
            "unstated": sorted(strong - told),
            "weakest stated": round(min(effects[edge] for edge in told) / largest, 4),
            "strongest other": round(max(rest) / largest, 4),
        }
    return found
