"""What passes with edges out hold, measured on short prompts of this model and told for longer and for more of them.

What such a pass holds follows from how many readers mix, from what a model keeps for a backward and from how it makes its
masks; how it grows with circuits, prompts and tokens is told by four small passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from interp.circuits.edges.acdc import can_follow
from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.downstream import Downstream
from interp.circuits.edges.exact import without
from interp.circuits.edges.mask_gradient import along_masks
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.masked_run import MaskedRun
from interp.circuits.edges.needs import needs, place_masks, read_positions
from interp.circuits.edges.pruning import Pruning, prune
from interp.circuits.edges.shape import Held, Widths, widths
from interp.circuits.graph.flow import Flow
from interp.circuits.question import Question
from interp.hooks.metrics import metric
from interp.hooks.rerun.memory import LiveBytes, peak

Make = Callable[[Contrast], Callable[[], object]]
"""From prompts to the pass that is measured; what it makes before is not counted."""


@dataclass(frozen=True)
class Pass:
    """Bytes at the peak.

    Attributes:
        prompts: of each circuit, as prompts grow.
        circuit: that do not grow with prompts.
    """

    prompts: Held
    circuit: float

    def of(self, circuits: int, batch: int, width: int) -> float:
        """For some circuits, side by side on some prompts."""
        return circuits * (self.prompts.of(batch, width) + self.circuit)

    @classmethod
    def fitted(cls, at: Widths, held: Callable[[int, int], int]) -> Pass:
        """From what is held by one circuit on some prompts of a width."""
        one = Held.fitted(at, [held(1, width) for width in at])
        prompt = max(0.0, held(2, at[0]) - one.of(1, at[0]) - at[0] ** 2 * one.pair - at[0] * one.token)
        return cls(replace(one, prompt=min(prompt, one.prompt)), max(0.0, one.prompt - prompt))

    @classmethod
    def measured(cls, flow: Flow, paired: bool, make: Make) -> Pass:
        return cls.fitted(sizes(flow), lambda batch, width: peak(make(contrast(flow, batch, width, paired))))


def sizes(flow: Flow) -> Widths:
    """Tokens of the prompts that are measured."""
    return widths(flow.model.adapter.model)  # type: ignore[attr-defined]


def contrast(flow: Flow, batch: int, width: int, paired: bool) -> Contrast:
    """Prompts of one token again and again, against another; everything differs at all positions."""
    clean, other = (flow.model.batch([[token] * width] * batch) for token in (0, 1))
    answers = (torch.full((batch,), token, device=flow.model.device) for token in (0, 1))
    ablated = flow.record(other)
    place_of = None if len(flow.graph.places) == 1 else torch.zeros_like(clean.input_ids)
    return Contrast(
        flow, Question(clean, clean.end, metric("logit_diff"), *answers), flow.record(clean),
        ablated if paired else ablated.map(lambda value: value[:1, :1]), place_of,
    )  # fmt: skip


def gradient(given: Contrast) -> Callable[[], object]:
    """Of one circuit, all its edges partly out."""
    return lambda: along_masks(given, [(0.5, 1.0)])


def learning(how: Pruning) -> Make:
    """A step of learned masks."""
    return lambda given: lambda: prune(given, how)


def circuits(given: Contrast) -> Callable[[], object]:
    """A circuit that takes most: every reader sees its own sum, and of nearly all writers."""
    runs = MaskedRuns(given)
    assert runs.stood_in
    circuit = given.flow.graph.full.copy()
    circuit[:, 0] = False
    return lambda: runs.values([circuit])


def single_edge(reader: int) -> Make:
    """All edges in but one into this reader, from its layer on."""

    def make(given: Contrast) -> Callable[[], object]:
        runs, graph = MaskedRuns(given), given.flow.graph
        full = torch.from_numpy(graph.full).to(given.flow.model.device, torch.float32)
        with torch.no_grad():
            first = MaskedRun(runs, full[None], keep=True)
            first.run()
        assert runs.stood_in and runs.recorded
        layer = graph.readers[reader].layer
        begin = given.flow.n_layers if layer < 0 else layer

        def run() -> object:
            with torch.no_grad():
                return without(runs, full, [(0, 0, reader)], begin, first.state)

        return run

    return make


def state(flow: Flow, paired: bool) -> Pass:
    """What a search that follows parts keeps of the clean run, and of the present state."""

    def held(batch: int, width: int) -> int:
        runs = MaskedRuns(contrast(flow, batch, width, paired))
        with torch.no_grad(), LiveBytes() as live:
            parts = Downstream(runs)
        assert parts.heads
        return live.now

    return Pass.fitted(sizes(flow), held)


def trial(given: Contrast) -> Callable[[], object]:
    """A change at the first reader of a circuit with all edges in: everything after it moves."""
    runs, graph = MaskedRuns(given), given.flow.graph
    parts, at_place = Downstream(runs), place_masks(runs)
    read, back = read_positions(runs)
    needed = np.array(needs(graph, graph.full, read, at_place, back))
    first = int(np.flatnonzero([reader.part == "v" for reader in graph.readers])[0])
    value = torch.zeros(len(read), device=given.flow.model.device)

    def run() -> object:
        shifts = torch.stack([parts.shift(0, 0)])
        return parts.trials(graph.full, first, shifts, needed, value)

    return run


@dataclass(frozen=True)
class Passes:
    """Passes of a model, measured when first asked for.

    Attributes:
        paired: whether what stands in for a writer is another for every prompt.
        pruning: how masks are learned.
    """

    flow: Flow
    paired: bool
    pruning: Pruning

    @cached_property
    def gradient(self) -> Pass:
        return Pass.measured(self.flow, self.paired, gradient)

    @cached_property
    def learning(self) -> Pass:
        return Pass.measured(self.flow, self.paired, learning(replace(self.pruning, steps=1)))

    @cached_property
    def circuits(self) -> Pass:
        return Pass.measured(self.flow, self.paired, circuits)

    @cached_property
    def single_edges(self) -> list[tuple[int, int, Pass]]:
        """Edges into readers that see most, the last three: the first edge's place among those of its layer, how many these
        are, and the pass."""
        graph, found = self.flow.graph, []
        for reader in range(len(graph.readers) - 3, len(graph.readers)):
            layer = [index for index, one in enumerate(graph.readers) if one.layer == graph.readers[reader].layer]
            each = len(graph.places) * graph.seen
            first, total = (
                int(sum(each[index] for index in some)) for some in ([i for i in layer if i < reader], layer)
            )
            found.append((first, total, Pass.measured(self.flow, self.paired, single_edge(reader))))
        return found

    @cached_property
    def follows(self) -> bool:
        """Whether ACDC follows single parts of this model."""
        return can_follow(MaskedRuns(contrast(self.flow, 1, 2, self.paired)))

    @cached_property
    def state(self) -> Pass:
        return state(self.flow, self.paired)

    @cached_property
    def trial(self) -> Pass:
        return Pass.measured(self.flow, self.paired, trial)
