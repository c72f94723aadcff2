"""`MaskedRuns`: the metric of some prompts under circuits, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.masked_run import MaskedRun, Masks
from interp.circuits.edges.sparse_run import SparseRun
from interp.circuits.graph.flow import Flow, Stream
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.rerun.proof import distrust
from interp.hooks.rerun.record import Record, record

TOKENS = 1 << 11
"""Tokens of one forward, where one circuit does not have more: more of them leave the caches of a CPU, and take twice as
long on `mini`."""

Found = TypeVar("Found")


def together(contrast: Contrast, tokens: int = TOKENS) -> int:
    """Circuits that run side by side on these prompts."""
    allowed = tokens if contrast.tokens is None else min(tokens, contrast.tokens)
    return max(1, allowed // (contrast.question.batch.size * contrast.width))


@dataclass(eq=False)
class MaskedRuns:
    """Runs of some prompts with edges out.

    Attributes:
        forwards: what they have cost so far, in forwards of these prompts: a run that begins inside counts the share of
            layers that it runs, the readout being one more.
        rooms: memory that runs of hard circuits use again.
    """

    contrast: Contrast
    forwards: float = 0.0
    rooms: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def flow(self) -> Flow:
        return self.contrast.flow

    @cached_property
    def parts(self) -> list[MaskedRuns]:
        """Some prompts at a time, as many as `Contrast.tokens` allows."""
        contrast, n = self.contrast, self.contrast.question.batch.size
        most = n if contrast.tokens is None else max(1, contrast.tokens // contrast.width)
        if most >= n:
            return [self]
        return [MaskedRuns(contrast.rows(start, min(start + most, n))) for start in range(0, n, most)]

    def by_parts(self, run: Callable[[MaskedRuns], Found]) -> list[Found]:
        """What a function gives for each part; what it cost there is counted here."""
        if len(self.parts) == 1:
            return [run(self)]
        found = []
        for part in self.parts:
            before = part.forwards
            found.append(run(part))
            self.forwards += (
                (part.forwards - before) * part.contrast.question.batch.size / self.contrast.question.batch.size
            )
        return found

    def values(self, circuits: Sequence[np.ndarray], tokens: int = TOKENS) -> Float[Tensor, "circuit batch"]:
        """The metric under each circuit [place writer reader]: booleans, or shares of each edge."""
        return torch.cat(self.by_parts(lambda part: part._values(circuits, tokens)), 1)

    def _values(self, circuits: Sequence[np.ndarray], tokens: int) -> Float[Tensor, "circuit batch"]:
        most = together(self.contrast, tokens)
        found = []
        for start in range(0, len(circuits), most):
            some = np.stack(circuits[start : start + most])
            masks = torch.from_numpy(some.astype(np.float32)).to(self.flow.model.device)
            with torch.no_grad():
                run = (SparseRun if some.dtype == bool else MaskedRun)(self, masks)
                found.append(self.measured(run.run()))
        return torch.cat(found)

    def outputs(self, masks: Masks) -> Float[Tensor, "circuit batch d_out"]:
        """What the metric sees under each circuit; gradients reach soft masks."""
        return MaskedRun(self, masks).run()

    def measured(self, outputs: Float[Tensor, "circuit batch d_out"]) -> Float[Tensor, "circuit batch"]:
        """The metric of what `outputs` gave."""
        question = self.contrast.question
        return torch.stack([question.measure(one, 0, len(one), self.contrast.reference) for one in outputs])

    @cached_property
    def stood_in(self) -> dict[int, Stream]:
        """Number of writers -> the sum of what stands in for the first ones, and of what none of them wrote.

        It ends where the latter is not the same in every run.
        """
        flow, ablated = self.flow, self.contrast.ablated
        n, total = 0, torch.zeros((), dtype=flow.model.dtype, device=flow.model.device)
        for value in ablated.embed.values():
            n, total = n + 1, total + value
        found = {n: total}
        for layer, shape in enumerate(flow.graph.layers):
            if (constant := flow.constant(layer)) is None:
                break
            total = total + flow.expand(layer, ablated.heads[layer]).sum(2) + constant
            n += shape.heads
            found[n] = total
            if shape.has_mlp:
                n, total = n + 1, total + ablated.mlp[layer]
                found[n] = total
        return found

    @cached_property
    def can_restart(self) -> bool:
        """Whether a forward that begins at a layer gives this model's own numbers; proven once for each model."""
        return "layers" not in distrust(self.flow.model)

    @cached_property
    def recorded(self) -> Record:
        """What a forward that begins inside needs of the untouched run."""
        adapter = self.flow.model.adapter
        assert isinstance(adapter, HuggingFaceAdapter)
        return record(adapter, self.contrast.question.batch, [], [])
