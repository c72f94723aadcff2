"""Forwards in which an edge is out within a subspace of the stream alone, or everywhere but there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.edges.exact import Edge
from interp.circuits.edges.masked import TOKENS, MaskedRuns
from interp.circuits.edges.masked_run import MaskedRun, Masks, State
from interp.circuits.graph.flow import Stream
from interp.circuits.understanding.directions import Basis


class Cut(NamedTuple):
    """Where an edge is out: inside the span of a basis, or outside it."""

    basis: Basis
    inside: bool = True


class ProjectedRun(MaskedRun):
    """A masked run in which what stands in for edges that are out comes in within a subspace alone.

    Args:
        bases: of each circuit; columns may be 0.
        inside: whether a circuit's edges are out inside its subspace, or outside.
    """

    def __init__(
        self,
        runs: MaskedRuns,
        masks: Masks,
        bases: Float[Tensor, "circuit d_model rank"],
        inside: Bool[Tensor, " circuit"],
        *,
        begin: int,
        after: State,
    ) -> None:
        super().__init__(runs, masks, begin=begin, after=after)
        self.bases, self.inside = bases, inside

    def _mixed(self, stream: Stream, readers: list[int]) -> Float[Tensor, "row pos reader d_model"]:
        shift = (super()._mixed(stream, readers) - stream[:, :, None]).unflatten(0, (self.n, -1))
        along = torch.einsum("cbprd,cdk->cbprk", shift, self.bases.to(shift.dtype))
        within = torch.einsum("cbprk,cdk->cbprd", along, self.bases.to(shift.dtype))
        kept = torch.where(self.inside[:, None, None, None, None], within, shift - within)
        return stream[:, :, None] + kept.flatten(0, 1)


class EdgeCuts:
    """The effect of one edge, whole or within subspaces, prompt by prompt; everything else is as it was.

    Args:
        tokens: of one forward, where one cut does not have more.
    """

    def __init__(self, runs: MaskedRuns, edge: Edge, tokens: int = TOKENS) -> None:
        self.runs, self.edge = runs, edge
        graph, n = runs.flow.graph, runs.flow.n_layers
        self.full = torch.from_numpy(graph.full).to(runs.flow.model.device, torch.float32)[None]
        self.begin = graph.readers[edge[2]].layer % (n + 1)
        with torch.no_grad():
            first = MaskedRun(runs, self.full, keep=True)
            self.clean = runs.measured(first.run())[0]
        self.state = first.state
        self.most = max(1, tokens // first.state.streams[0][..., 0].numel())

    @cached_property
    def whole(self) -> Float[np.ndarray, " prompt"]:
        """Effect of the edge itself."""
        with torch.no_grad():
            run = MaskedRun(self.runs, self._without(1), begin=self.begin, after=self.state)
            return self._effects(self.runs.measured(run.run()))[0]

    @torch.no_grad()
    def __call__(self, cuts: Sequence[Cut]) -> Float[np.ndarray, "cut prompt"]:
        """metric(clean) - metric(edge out within the cut)."""
        found = [np.zeros((0, len(self.clean)))]
        for start in range(0, len(cuts), self.most):
            some = cuts[start : start + self.most]
            bases = torch.nn.utils.rnn.pad_sequence([cut.basis.T for cut in some], batch_first=True).mT
            inside = torch.tensor([cut.inside for cut in some])
            run = ProjectedRun(
                self.runs, self._without(len(some)), bases.to(self.full.device), inside.to(self.full.device),
                begin=self.begin, after=self.state,
            )  # fmt: skip
            found.append(self._effects(self.runs.measured(run.run())))
        return np.concatenate(found)

    def _without(self, n: int) -> Masks:
        masks = self.full.repeat(n, 1, 1, 1)
        masks[:, *self.edge] = 0
        return masks

    def _effects(self, values: Float[Tensor, "cut batch"]) -> Float[np.ndarray, "cut prompt"]:
        found: np.ndarray = (self.clean - values).double().cpu().numpy()
        return found
