"""Bundled models with their graph and prompts, as methods on circuits take them."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

import interp
from interp.ablation.asking import tokenised
from interp.circuits.edges.posed import Posed
from interp.circuits.edges.replacements import stand_in
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Edges
from interp.circuits.judging.trials import Trials
from interp.hooks.metrics import metric
from interp.zoo.registry import ROOT


class Planted(NamedTuple):
    """A bundled model, prompts that a circuit is taken from, and others that judge."""

    flow: Flow
    taken: Posed
    judged: Posed
    truth: dict[str, list[str]]

    def edges(self, kind: str) -> Edges:
        """Its true circuit, pruned: 'program', 'resample' or 'zero'."""
        graph = self.flow.graph
        return graph.pruned(graph.of_labels(self.truth[kind]))

    def trials(self, replacement: str) -> Trials:
        """What judges circuits."""
        return Trials(self.flow, self.judged, stand_in(replacement, self.flow, self.taken))


@cache
def planted(name: str, n: int = 32, measure: str = "logit_diff") -> Planted:
    """n of the examples that are bundled with a model, half of them to judge."""
    model = interp.load(name)
    task = interp.task("file", path=str(ROOT / name / "examples.jsonl"), n=n)
    examples = task.examples(model.tokenizer).examples
    read = metric(measure)
    pairs = tokenised(model, task, examples, read, "resample", truncate=False, first_token=False)
    posed = Posed.of(pairs, read)
    card = json.loads((ROOT / name / "card.json").read_text())
    return Planted(Flow.of(model), posed.rows(0, n // 2), posed.rows(n // 2, n), card["truth"]["edges"])
