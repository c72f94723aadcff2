"""Greedy growth: from no edges on, add what raises the metric most.

An edge alone does nothing as long as what its writer reads is ablated, so what is tried is an edge into something that is
read already, with a way back to the embeddings: the chain of edges of largest first-order gain. The first-order gain is the
gradient of the metric at the masks, where edges that are in have 1 and all others a stated share: at 0 most gradients
vanish. The best of a shortlist are then run, each by itself and the first 2, 4, 8, ... together, for parts that need each
other; the one of largest gain an added edge is added. Prompts of the first half choose; the second half judges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from interp.circuits.edges.attribution import Attribution, Contrast
from interp.circuits.edges.mask_gradient import mask_gradient
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.kernels.errors import InterpError

Edge = tuple[int, int, int]


@dataclass(frozen=True)
class Growing:
    """When growth stops, and how it looks for edges.

    Attributes:
        budget: forwards of all prompts.
        size: share of edges at most.
        shortlist: ways that are run at each step.
        share: mask of the edges that are not in, where gradients are taken.
        least: gain in the metric of a step, below which growth stops.
    """

    budget: float = 500.0
    size: float = 0.2
    shortlist: int = 16
    share: float = 0.5
    least: float = 0.0


@dataclass(frozen=True, eq=False)
class Step:
    """What one step added.

    Attributes:
        added: labels.
        edges: how many are in now.
        chosen, judged: the metric on the prompts that chose, and on the others.
        gain: of this step, on the others.
        forwards: spent so far.
    """

    added: tuple[str, ...]
    edges: int
    chosen: float
    judged: float
    gain: float
    forwards: float


@dataclass(frozen=True, eq=False)
class Grown:
    """The circuit at the end, and how it came to be.

    Attributes:
        scores: 1 for what the first step added, less for each later one, 0 for edges that were not.
        stopped: why: 'budget', 'size' or 'gain'.
    """

    circuit: Edges
    scores: Scores
    steps: tuple[Step, ...]
    forwards: float
    stopped: str


def grow(contrast: Contrast, how: Growing | None = None) -> Grown:
    """Grow a circuit.

    Raises:
        InterpError: E205 fewer than two prompts; E407 the metric has no gradient.
    """
    growth = _Growth(contrast, how or Growing())
    while not growth.stopped:
        growth.step()
    return growth.grown()


def attributed(contrast: Contrast, how: Growing | None = None) -> Attribution:
    """The same as scores: one row, of the mean over prompts."""
    found = grow(contrast, how)
    return Attribution(torch.from_numpy(found.scores)[None].float(), found.forwards, {})


def half(contrast: Contrast, start: int, stop: int) -> Contrast:
    """Some of the prompts; what stands for all of them still does."""

    def cut(value: Tensor) -> Tensor:
        return value if len(value) == 1 else value[start:stop]

    return replace(
        contrast,
        question=contrast.question.rows(start, stop),
        clean=contrast.clean.map(cut),
        ablated=contrast.ablated.map(cut),
        place_of=None if contrast.place_of is None else cut(contrast.place_of),
        reference=None if contrast.reference is None else cut(contrast.reference),
    )


class _Growth:
    """The state of a growth."""

    def __init__(self, contrast: Contrast, how: Growing) -> None:
        n = contrast.question.batch.size
        if n < 2:
            raise InterpError("E205", "one prompt cannot both choose and judge", fix="give at least two")
        self.how, self.graph = how, contrast.flow.graph
        self.share = n // 2 / n
        self.chooser = MaskedRuns(half(contrast, 0, n // 2))
        self.judge = MaskedRuns(half(contrast, n // 2, n))
        self.circuit, self.scores = self.graph.none, np.zeros(self.graph.full.shape)
        self.steps: list[Step] = []
        self.stopped = ""
        self.chosen, self.judged = (float(one.values([self.circuit]).mean()) for one in (self.chooser, self.judge))

    @property
    def forwards(self) -> float:
        """In forwards of all prompts."""
        return self.share * self.chooser.forwards + (1 - self.share) * self.judge.forwards

    def step(self) -> None:
        """Add the best of the shortlist, or stop."""
        room = int(self.how.size * self.graph.n_edges) - int(self.circuit.sum())
        ways = [way for way in self._ways(self._first_order()) if len(way) <= room]
        if not ways:
            self.stopped = "size"
            return
        circuits = [self._with(way) for way in ways]
        gains = self.chooser.values(circuits).mean(1).double().cpu().numpy() - self.chosen
        per_edge = gains / np.array([len(way) for way in ways])
        best = int(per_edge.argmax())
        if not gains[best] > self.how.least:
            self.stopped = "gain"
            return
        self._add(circuits[best], ways[best], self.chosen + float(gains[best]))

    def _add(self, circuit: Edges, way: frozenset[Edge], chosen: float) -> None:
        judged = float(self.judge.values([circuit]).mean())
        for edge in way:
            self.scores[edge] = 1 / (1 + len(self.steps))
        labels = tuple(self.graph.label(*edge) for edge in sorted(way))
        gain = judged - self.judged
        self.steps.append(Step(labels, int(circuit.sum()), chosen, judged, gain, self.forwards))
        self.circuit, self.chosen, self.judged = circuit, chosen, judged
        self.stopped = "budget" if self.forwards >= self.how.budget else ""

    def _first_order(self) -> Scores:
        """What the masks of edges that are not in would do."""
        masks = np.where(self.circuit, 1.0, self.how.share)
        device, dtype = self.chooser.flow.model.device, self.chooser.flow.model.dtype
        _, pull = mask_gradient(self.chooser, torch.from_numpy(masks).to(device, dtype))
        return np.where(self.circuit, 0.0, pull.double().cpu().numpy())

    def _ways(self, gains: Scores) -> list[frozenset[Edge]]:
        """What is tried: ways that begin with the edges of largest gain into what is read, and the first of them together."""
        wanted = read_by_circuit(self.graph, self.circuit)
        open_edges = self.graph.full & ~self.circuit & wanted[None, None, :]
        order = np.flatnonzero(open_edges)[np.argsort(-gains[open_edges], kind="stable")][: self.how.shortlist]
        edges: list[Edge] = [tuple(map(int, np.unravel_index(index, gains.shape))) for index in order]  # type: ignore[misc]
        ways = [frozenset(self._completed(edge, gains)) for edge in edges]
        powers = [2**power for power in range(1, len(ways).bit_length()) if 2**power <= len(ways)]
        together = [frozenset[Edge]().union(*ways[:n]) for n in powers]
        return list(dict.fromkeys([*ways, *together]))

    def _completed(self, edge: Edge, gains: Scores) -> list[Edge]:
        """An edge, and edges of the largest gains from the embeddings to its writer, unless that reads something already."""
        way = [edge]
        while feeding := self.graph.inputs_of(self.graph.writers[way[-1][1]]):
            if self.circuit[:, :, feeding].any():
                break
            place, writer, reader = np.unravel_index(
                np.where(self.graph.full[:, :, feeding], gains[:, :, feeding], -np.inf).argmax(),
                gains[:, :, feeding].shape,
            )
            way.append((int(place), int(writer), feeding[int(reader)]))
        return way

    def _with(self, way: frozenset[Edge]) -> Edges:
        circuit = self.circuit.copy()
        circuit[tuple(np.array(sorted(way)).T)] = True
        return circuit

    def grown(self) -> Grown:
        return Grown(self.circuit, self.scores, tuple(self.steps), self.forwards, self.stopped)


def read_by_circuit(graph: Graph, circuit: Edges) -> np.ndarray:
    """Readers whose parts are read in a circuit, and the logits [reader]."""
    found = np.zeros(len(graph.readers), dtype=bool)
    found[-1] = True
    for index, part in enumerate(graph.writers):
        if circuit[:, index].any():
            found[graph.inputs_of(part)] = True
    return found
