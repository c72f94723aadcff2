"""`GroundTruth`: which edges of a bundled model are true under an ablation, and `Case`, the model ready to be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import interp
from interp.ablation.asking import tokenised
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.posed import Posed
from interp.circuits.edges.replacements import stand_in
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.judging.ranking import chance_precision
from interp.hooks.metrics import metric
from interp.hooks.names import parse_head
from interp.kernels.errors import InterpError, suggest
from interp.zoo.registry import ROOT, list_models

ABLATIONS = ("resample", "zero")
"""Under which cards state true edges from an exact sweep."""

PROMPTS = 16
UNASKED = "closeness"
"""The metric of models whose prompts have no answers."""


@dataclass(frozen=True)
class GroundTruth:
    """True edges of one bundled model under one ablation.

    Attributes:
        kind: of the model: 'planted', 'compiled', 'trained to order'.
        labels: the edges, as the card states them.
    """

    model: str
    kind: str
    ablation: str
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.ablation}"


@dataclass(frozen=True, eq=False)
class Case:
    """A model with its prompts, and what stands in for edges that are out.

    Attributes:
        posed: the prompts, with the corrupt one of each pair.
        edges: those that are true.
    """

    truth: GroundTruth
    flow: Flow
    posed: Posed
    contrast: Contrast
    edges: Edges

    @property
    def graph(self) -> Graph:
        return self.flow.graph


@dataclass(frozen=True)
class Asked:
    """What a case is, in numbers.

    Attributes:
        metric: that scores are about.
        edges, true: how many there are.
        chance: average precision of a random ranking.
    """

    model: str
    kind: str
    ablation: str
    metric: str
    prompts: int
    edges: int
    true: int
    chance: float

    @classmethod
    def of(cls, case: Case) -> Asked:
        truth, graph = case.truth, case.graph
        return cls(
            truth.model, truth.kind, truth.ablation, case.posed.question.metric.name, len(case.posed),
            graph.n_edges, int(case.edges.sum()), chance_precision(graph, case.edges),
        )  # fmt: skip

    @property
    def name(self) -> str:
        return f"{self.model}, {self.ablation}"

    @property
    def prevalence(self) -> float:
        """Share of edges that are true."""
        return self.true / self.edges


def ground_truths(models: Sequence[str] = (), ablations: Sequence[str] = ABLATIONS) -> list[GroundTruth]:
    """Every bundled model whose card states edges, under each of these ablations for which it does.

    Args:
        models: some of them; none is all.

    Raises:
        InterpError: E201 no such ablation, or no such model with true edges.
    """
    stated = {name: card for name, card in list_models().items() if card.get("truth", {}).get("edges")}
    for what, given, known in (("model with true edges", models, list(stated)), ("ablation", ablations, ABLATIONS)):
        for name in given:
            if name not in known:
                raise InterpError("E201", f"no {what} {name!r}", fix=suggest(name, known))
    return [
        GroundTruth(name, card["kind"], ablation, tuple(card["truth"]["edges"][ablation]))
        for name, card in stated.items()
        if name in (models or stated)
        for ablation in ablations
        if card["truth"]["edges"].get(ablation)
    ]


def cases(truths: Iterable[GroundTruth], prompts: int = PROMPTS) -> Iterator[Case]:
    """Each truth with its model, which is opened once where several in a row are about it."""
    opened, flow, posed = "", None, None
    for truth in truths:
        if flow is None or posed is None or truth.model != opened:
            flow, posed = _opened(truth.model, prompts)
            opened = truth.model
        contrast = stand_in(truth.ablation, flow, posed).contrast(flow, posed)
        yield Case(truth, flow, posed, contrast, true_edges(flow.graph, truth.labels))


def _opened(name: str, prompts: int) -> tuple[Flow, Posed]:
    """A bundled model, and the first of the prompts that are bundled with it."""
    model = interp.load(name)
    task = interp.task("file", path=str(ROOT / name / "examples.jsonl"), n=prompts)
    asked = metric(UNASKED if task.metric == "kl" else task.metric)
    examples = task.examples(model.tokenizer).examples
    pairs = tokenised(model, task, examples, asked, "resample", truncate=False, first_token=False)
    return Flow.of(model), Posed.of(pairs, asked)


def true_edges(graph: Graph, labels: Iterable[str]) -> Edges:
    """The edges that a card states; it names keys and values by query heads, a graph by what makes them (E201)."""
    return graph.of_labels(_shared(graph, label) for label in labels)


def _shared(graph: Graph, label: str) -> str:
    writer, _, reader = label.partition("->")
    name, _, part = reader.partition(".")
    if part not in ("k", "v"):
        return label
    head = parse_head(name)
    layer = graph.layers[head.layer]
    if layer.heads == layer.kv_heads:
        return label
    return f"{writer}->L{head.layer}KV{head.head * layer.kv_heads // layer.heads}.{part}"
