"""Edges of a graph tried one after the other from the output to the input, several at a time, with the decisions of one.

Which of the earlier edges of a batch will be out is predicted. Measurements up to and with the first wrong prediction
count; the others are of circuits that will not come, and are made again, with what they said as the new prediction. A batch
ends at an edge whose prediction is near the threshold, or of its size and below 0: nothing then hangs on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from interp.circuits.edges.downstream import Branches, Downstream
from interp.circuits.edges.masked import MaskedRuns, together
from interp.circuits.edges.masked_run import MaskedRun
from interp.circuits.edges.needs import Needs, carried, needs, place_masks, read_positions
from interp.circuits.graph.graph import Scores

Order = Literal["reverse", "forward"]
Slot = tuple[int, int]
"""Place and writer of an edge into the reader at hand."""

DOUBT = 8.0
"""A prediction is doubted where its size is within this factor of the threshold: nine in ten wrong ones on `mini`."""


@dataclass(frozen=True)
class Skipping:
    """Edges that are taken out because a score says that they do little, and a sample of them that is measured.

    Attributes:
        below: edges whose score is below this share of tau are not measured.
        audited: share of them that is, drawn at random; the measurement decides these.
    """

    below: float = 0.1
    audited: float = 0.1
    seed: int = 0


@dataclass(eq=False)
class Search:
    """The state of one search.

    Attributes:
        runs: whose counter of forwards is raised.
        tau, order, absolute, predicted, skipping: see `interp.circuits.edges.acdc.acdc`.
        parts: follows single parts; None where runs begin at layers.
        circuit: edges that are in.
        value: the metric of each prompt.
    """

    runs: MaskedRuns
    tau: float
    order: Order
    absolute: bool
    predicted: Scores
    skipping: Skipping | None
    parts: Downstream | None = None
    trials: int = 0
    skipped: int = 0
    differed: int = 0
    audited: set[tuple[int, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.runs.forwards += 1  # the recorded run
        graph = self.graph = self.runs.flow.graph
        self.circuit = graph.full.copy()
        self.losses, self.measured = np.zeros(graph.full.shape), graph.none
        full = torch.from_numpy(graph.full).to(self.runs.flow.model.device, torch.float32)
        first = MaskedRun(self.runs, full[None], keep=True)
        self.value: Tensor = self.runs.measured(first.run())[0]
        self.whole, self.first = float(self.value.mean()), first.state
        self.read, self.back = read_positions(self.runs)
        self.places, self.carried = place_masks(self.runs), carried(self.runs)
        self.most = together(self.runs.contrast)
        self.together, self.predicted = self.most, self.predicted.copy()
        self.random = np.random.default_rng(self.skipping.seed if self.skipping else 0)

    def run(self) -> None:
        """Decide every edge."""
        for reader in reversed(range(len(self.graph.readers))):
            needed = needs(self.graph, self.circuit, self.read, self.places, self.back)
            self._visit(reader, needed)

    def _visit(self, reader: int, needed: Needs) -> None:
        """Try the edges into one reader."""
        slots = [
            (place, writer) for writer in range(self.graph.seen[reader]) for place in range(len(self.graph.places))
        ]
        slots = slots if self.order == "forward" else slots[::-1]
        idle = [slot for slot in slots if self._is_idle(reader, slot, needed)]
        for place, writer in idle:
            self.circuit[place, writer, reader] = False
        waiting = [slot for slot in slots if slot not in idle]
        if self.skipping is not None:
            waiting = self._skip(reader, waiting, needed)
        while waiting:
            tried = self._sure(reader, waiting[: self.together])
            done = self._try(reader, tried, needed)
            self.together = min(2 * self.together, self.most) if done == len(tried) else done
            waiting = waiting[done:]

    def _sure(self, reader: int, slots: list[Slot]) -> list[Slot]:
        """The first edges, up to and with one whose prediction is doubted."""
        sizes = (abs(self.predicted[place, writer, reader]) for place, writer in slots)
        doubted = [row for row, size in enumerate(sizes) if self.tau / DOUBT < size < self.tau * DOUBT]
        return slots[: doubted[0] + 1] if doubted else slots

    def _is_idle(self, reader: int, slot: Slot, needed: Needs) -> bool:
        """Whether an edge carries nothing to where its reader matters."""
        place, writer = slot
        return not (self.carried[:, :, writer] & needed[reader] & self.places[place]).any()

    def _skip(self, reader: int, slots: list[Slot], needed: Needs) -> list[Slot]:
        """Take out edges with small scores, measure the metric once without them, and return the others."""
        assert self.skipping is not None
        least = self.skipping.below * self.tau
        small = [slot for slot in slots if abs(self.predicted[slot[0], slot[1], reader]) < least]
        asked = [slot for slot in small if self.random.random() < self.skipping.audited]
        out = [slot for slot in small if slot not in asked]
        self.audited |= {(*slot, reader) for slot in asked}
        self.skipped += len(out)
        if out:
            found = self._trials(reader, out, [True] * len(out), needed, last=True)
            self._take_out(reader, out, found, 0)
        return [slot for slot in slots if slot not in out]

    def _try(self, reader: int, slots: list[Slot], needed: Needs) -> int:
        """Measure some edges together; how many of them are decided by that."""
        gone = [self._goes(float(self.predicted[place, writer, reader])) for place, writer in slots]
        found = self._trials(reader, slots, gone, needed)
        out: list[Slot] = []
        base, done, last = self.value, len(slots), 0
        for row, (slot, expected) in enumerate(zip(slots, gone, strict=True)):
            loss = float((base - found.values[row]).mean())
            self.predicted[*slot, reader] = (
                loss  # after a wrong prediction, of a circuit that will not come: a good guess
            )
            if row < done:
                self.losses[*slot, reader], self.measured[*slot, reader] = loss, True
                if self._goes(loss):
                    out, last = [*out, slot], row
                elif (*slot, reader) in self.audited:
                    self.differed += 1
                if self._goes(loss) != expected:
                    done = row + 1
            base = found.values[row] if expected else base
        if out:
            self._take_out(reader, out, found, last)
        return done

    def _goes(self, loss: float) -> bool:
        return (abs(loss) if self.absolute else loss) < self.tau

    def _trials(
        self, reader: int, slots: Sequence[Slot], gone: Sequence[bool], needed: Needs, *, last: bool = False
    ) -> Branches:
        """The circuit without each edge, and without those before it that are `gone`; the last of these alone."""
        keep = slice(len(slots) - 1, None) if last else slice(None)
        self.trials += 1 if last else len(slots)
        if self.parts is None:
            return Branches(self._restarted(reader, slots, gone, keep))
        rows, behind = [], torch.zeros_like(self.parts.shift(*slots[0]))
        for (place, writer), goes in zip(slots, gone, strict=True):
            rows.append(behind + self.parts.shift(place, writer))
            behind = rows[-1] if goes else behind
        return self.parts.trials(self.circuit, reader, torch.stack(rows[keep]), needed, self.value)

    def _restarted(self, reader: int, slots: Sequence[Slot], gone: Sequence[bool], keep: slice) -> Tensor:
        """The same by runs from the reader's layer on; before it, all edges are in."""
        masks, behind = [], torch.from_numpy(self.circuit).to(self.value.device, torch.float32)
        for slot, goes in zip(slots, gone, strict=True):
            masks.append(behind.clone())
            masks[-1][*slot, reader] = 0
            behind = masks[-1] if goes else behind
        layer = self.graph.readers[reader].layer
        begin = self.runs.flow.n_layers if layer < 0 else layer
        return self.runs.measured(MaskedRun(self.runs, torch.stack(masks[keep]), begin=begin, after=self.first).run())

    def _take_out(self, reader: int, slots: Sequence[Slot], found: Branches, row: int) -> None:
        """These edges are out from now on; a trial says what that does."""
        for slot in slots:
            self.circuit[*slot, reader] = False
        self.value = found.values[row]
        if self.parts is not None:
            self.parts.keep(found, row)
