"""How many forwards methods take, and what operations these are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from interp.circuits.edges.attribution import PULL
from interp.circuits.edges.exact import by_layer
from interp.circuits.edges.growth import Growing
from interp.circuits.edges.methods import Settings
from interp.circuits.edges.pruning import Pruning
from interp.circuits.edges.shape import Shape
from interp.circuits.graph.graph import Graph

AROUND = 3
"""Forwards of a search beside its trials: the clean run twice, and the circuit that it leaves."""

LISTS = 16
"""Shortlists' worth of ways that a step of growth tries, at most."""


@dataclass(frozen=True)
class Count:
    """Passes of a prompt, without the runs in which writers are recorded.

    Attributes:
        pulls: forwards with a backward.
        runs: forwards, or shares of them.
        scored: pulls whose gradients are multiplied with what writers wrote.
        mixed: runs in which every reader mixes, a backward counting twice.
    """

    pulls: float = 0.0
    runs: float = 0.0
    scored: float = 0.0
    mixed: float = 0.0

    @property
    def forwards(self) -> float:
        """A backward counts as two."""
        return PULL * self.pulls + self.runs

    def __add__(self, other: Count) -> Count:
        mine, others = vars(self), vars(other)
        return Count(**{name: mine[name] + others[name] for name in mine})

    def flops(self, graph: Graph, shape: Shape, width: int, recorded: int) -> int:
        """Floating point operations; a backward that leaves weights alone costs one forward."""
        one = width * shape.token + width * width * shape.pair + shape.logits
        passes = (2 * self.pulls + self.runs + recorded) * one
        return round(2 * (passes + width * (self.scored + self.mixed) * _products(graph, shape)))


def _products(graph: Graph, shape: Shape) -> int:
    """Multiply-adds for a token: what heads wrote, something for every edge, and projections of every reader."""
    parts = sum(2 * layer.heads + 2 * layer.kv_heads for layer in graph.layers)
    return (parts * shape.d_head + int(graph.exists.sum())) * shape.d_model


def _alone(pulls: int) -> Count:
    return Count(pulls=float(pulls), scored=float(pulls))


def _masked(pulls: int) -> Count:
    return Count(pulls=float(pulls), mixed=3.0 * pulls)


def pulls_along_inputs(settings: Settings) -> int:
    """Forwards with a backward of EAP-IG; at most, where steps are doubled until scores add up."""
    if settings.gap is None:
        return settings.steps + (settings.rule == "trapezoid")
    steps = 1
    while steps < settings.steps:
        steps *= 2
    return steps + 1


def _activations(graph: Graph, settings: Settings) -> Count:
    return _alone(len(graph.writers) * (settings.steps + (settings.rule == "trapezoid")))


def _mask_gradient(graph: Graph, settings: Settings) -> Count:
    return _masked(settings.steps + (settings.rule == "trapezoid"))


def _exact(graph: Graph, settings: Settings) -> Count:
    """Every edge from its reader's layer on."""
    n = len(graph.layers)
    edges = sum(len(some) * (n + 1 - begin) for begin, some in by_layer(graph))
    return Count(runs=1 + edges / (n + 1))


def _acdc(graph: Graph, settings: Settings) -> Count:
    return _alone(1) + Count(runs=float(AROUND + graph.n_edges))


def _thresholds(graph: Graph, settings: Settings) -> Count:
    return _alone(1) + Count(runs=float(len(settings.taus) * (AROUND + graph.n_edges)))


def _pruning(graph: Graph, settings: Settings) -> Count:
    first = counted(settings.start, graph, settings) if settings.start else Count()
    return first + _masked(settings.epochs * Pruning.samples) + Count(runs=1.0)


def _growth(graph: Graph, settings: Settings) -> Count:
    """The step that goes beyond the budget, and a trial without each edge at the end."""
    how = Growing(budget=settings.budget, size=settings.size)
    most = how.budget + how.size * graph.n_edges + 2 * PULL * how.points + LISTS * how.shortlist
    return Count(runs=most, mixed=most)


def _ensemble(graph: Graph, settings: Settings) -> Count:
    return sum((counted(name, graph, settings) for name in settings.members.split("+")), Count())


COUNTS: Mapping[str, Callable[[Graph, Settings], Count]] = {
    "eap": lambda graph, settings: _alone(1),
    "eap-denoise": lambda graph, settings: _alone(1),
    "clean-corrupted": lambda graph, settings: _alone(2),
    "eap-ig": lambda graph, settings: _alone(pulls_along_inputs(settings)),
    "eap-ig-activations": _activations,
    "mask-gradient": _mask_gradient,
    "exact": _exact,
    "path-patching": _exact,
    "acdc": _acdc,
    "acdc-thresholds": _thresholds,
    "pruning": _pruning,
    "growth": _growth,
    "ensemble": _ensemble,
}


def counted(method: str, graph: Graph, settings: Settings) -> Count:
    """Of a method by its name (KeyError for one that is not counted)."""
    return COUNTS[method](graph, settings)
