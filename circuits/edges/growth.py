"""Greedy growth: from no edges on, add what brings the metric nearest to the whole model's.

At each step:

1. The metric's gradient at masks, at points on the way from this circuit to the whole model, tells what edges promise.
2. Ways of adding edges are put together from each of these gradients and from their mean, and run (`ways.py`).
3. The way that comes nearest to the whole model for each edge that it adds is taken.
4. Of its edges those go again without which the circuit stays as near, those that promise least first.

Nothing better left, the same is done with the whole circuit, its youngest edges first. How near: the squared distance
of the metric to the whole model's, on each prompt. Something that raises the metric of all prompts alike is found easily
in a circuit that is nearly empty; so what counts is the mean gain over prompts less its standard error. Prompts of the first
half choose; those of the second half judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.circuits.edges.attribution import Attribution, Contrast, points
from interp.circuits.edges.halves import Side
from interp.circuits.edges.mask_gradient import mask_gradient
from interp.circuits.edges.ways import strongest, tried, used
from interp.circuits.graph.graph import Edges, Scores
from interp.kernels.errors import InterpError

SPARED = 0.001
"""Share of what a way gains that may be lost with an edge that is taken out of it again."""


@dataclass(frozen=True)
class Growing:
    """When growth stops, and how it looks for edges.

    Attributes:
        budget: forwards of all prompts; beyond them no step begins and no edge is tried out, but what is in is scored.
        size: share of edges at most.
        shortlist: edges that are tried one by one at each step, of each gradient.
        points: where gradients are taken at each step.
        least: gain of a step less its standard error, in shares of the empty circuit's distance, below which growth stops.
    """

    budget: float = 500.0
    size: float = 0.2
    shortlist: int = 4
    points: int = 5
    least: float = 0.001


@dataclass(frozen=True, eq=False)
class Step:
    """What one step added.

    Attributes:
        added: labels.
        edges: how many are in now.
        chosen, judged: mean squared distance to the whole model's metric, in shares of the empty circuit's, on the
            prompts that chose, and on the others.
        gain: by how much this step lessened it, on the others.
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
        scores: 1/2 to 1 for edges that are in, by how far the metric moves without them; 0 to 1/2 for all others, by what
            they promise at the end. The largest of each kind are at the upper end.
        steps: those that added edges; some of these may be out again at the end.
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
    growth.finish()
    return Grown(growth.circuit, growth.scores(), tuple(growth.steps), growth.forwards, growth.stopped)


def attributed(contrast: Contrast, how: Growing | None = None) -> Attribution:
    """The same as scores: one row, for all prompts."""
    found = grow(contrast, how)
    return Attribution(torch.from_numpy(found.scores)[None].float(), found.forwards, {})


class _Growth:
    """The state of a growth."""

    def __init__(self, contrast: Contrast, how: Growing) -> None:
        n = contrast.question.batch.size
        if n < 2:
            raise InterpError("E205", "one prompt cannot both choose and judge", fix="give at least two")
        self.how, self.graph, self.share = how, contrast.flow.graph, n // 2 / n
        self.chooser, self.judge = Side(contrast.rows(0, n // 2)), Side(contrast.rows(n // 2, n))
        self.circuit, self.age = self.graph.none, np.zeros(self.graph.full.shape)
        self.steps: list[Step] = []
        self.stopped = ""
        self.chosen, self.judged = (one.far(self.circuit) for one in (self.chooser, self.judge))

    @property
    def forwards(self) -> float:
        """In forwards of all prompts."""
        return self.share * self.chooser.runs.forwards + (1 - self.share) * self.judge.runs.forwards

    def step(self) -> None:
        """Add the best way, or stop."""
        room, pulls = int(self.how.size * self.graph.n_edges) - int(self.circuit.sum()), self._pulls()
        ways = tried(self.graph, self.circuit, pulls, self.how.shortlist, room)
        gains, lengths = self._gains(ways), np.array([way.sum() for way in ways])
        for fits in (lengths > 0, lengths <= room):
            good = np.flatnonzero(fits & (gains > self.how.least))
            if not len(good):
                break
            best = ways[int(good[(gains / lengths)[good].argmax()])]
            way, reached = self._trimmed(best, self.chooser.far(self.circuit | best), pulls[0])
            if way.sum() <= room:
                self._add(way, reached, pulls[0])
                return
        self.stopped = "size" if not ways or (gains > self.how.least).any() else "gain"

    def _gains(self, ways: Sequence[Edges]) -> Float[np.ndarray, " way"]:
        """How much nearer each way comes, mean over prompts less its standard error."""
        if not ways:
            return np.zeros(0)
        here, *there = self.chooser.distances([self.circuit, *(self.circuit | way for way in ways)])
        nearer = here - np.stack(there)
        n = len(here)
        found: Float[np.ndarray, " way"] = nearer.mean(1) - nearer.std(1, ddof=min(1, n - 1)) / n**0.5
        return found

    def _add(self, way: Edges, chosen: float, pull: Scores) -> None:
        self.circuit = self.circuit | way
        self.age[way] = len(self.steps) + 1 - pull[way] / max(1e-30, 2 * pull[way].max())
        judged = self.judge.far(self.circuit)
        labels, edges = tuple(self.graph.labels(way)), int(self.circuit.sum())
        self.steps.append(Step(labels, edges, chosen, judged, self.judged - judged, self.forwards))
        self.chosen, self.judged = chosen, judged
        self.stopped = "budget" if self.forwards >= self.how.budget else ""

    def _trimmed(self, way: Edges, far: float, pull: Scores) -> tuple[Edges, float]:
        """A way without what it does not need, and how far the circuit is with it; at least one edge stays."""
        allowed = SPARED * (self.chosen - far)
        for edge in reversed(strongest(np.where(way, pull, -1.0), int(way.sum()))):
            less = way.copy()
            less[edge] = False
            less = used(self.graph, less, self.circuit)
            if self.forwards >= self.how.budget:
                break
            if not way[edge] or not less.any():
                continue
            without = self.chooser.far(self.circuit | less)
            if without <= far + allowed:
                way, far = less, without
        return way, far

    def _pulls(self) -> list[Scores]:
        """What edges that are not in promise: how steep the metric is, in the mean over points and at each of them."""
        runs, is_open = self.chooser.runs, self.graph.full & ~self.circuit
        model, found = runs.flow.model, []
        for share, _ in points("midpoint", self.how.points):
            masks = torch.from_numpy(np.where(self.circuit, 1.0, share)).to(model.device, model.dtype)
            found.append(mask_gradient(runs, masks)[1].double().cpu().numpy())
        return [np.where(is_open, np.abs(one), 0.0) for one in (np.mean(found, axis=0), *found)]

    def finish(self) -> None:
        """Take out what the whole circuit does not need, the youngest first."""
        if self.circuit.any():
            whole, far = self.circuit, self.chosen
            self.circuit, self.chosen = self.graph.none, 1.0
            self.circuit, self.chosen = self._trimmed(whole, far, np.where(whole, self.age.max() + 1 - self.age, 0.0))

    def scores(self) -> Scores:
        """See `Grown`."""
        found, pull = self.graph.none.astype(float), self._pulls()[0]
        found[:] = 0.5 * pull / (pull.max() or 1.0)
        edges = np.argwhere(self.circuit)
        if len(edges):
            without = np.repeat(self.circuit[None], len(edges), 0)
            without[np.arange(len(edges)), *edges.T] = False
            values = self.chooser.values([self.circuit, *without])
            moved = np.abs(values[1:] - values[0]).mean(1)
            found[self.circuit] = 0.5 + 0.5 * moved / (moved.max() or 1.0)
        return found
