"""Attention whose sinks are turned down, their mass given to the other keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.backends.blockwise import blocks
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Weights
from interp.kernels.variants.derived import Derived
from interp.kernels.variants.lengths import starts


@dataclass(frozen=True, eq=False)
class SinkCalibration(Derived):
    """Columns that hold more than `threshold` of the rows that may see them are multiplied by `beta`; what is taken away
    goes to the other columns in proportion to their weights, so that the mass of a row stays.

    The first such column of a document is left alone (it is the sink at the first token). A row that would have
    nothing else to give the mass to stays as it is. Needs a first pass over all rows, and columns are judged by later
    queries too.

    Args:
        threshold: mean weight of a column, over the queries that may see it, from which it is a sink.
        beta: what a sink keeps; 1 changes nothing.

    Raises:
        InterpError: E205, a threshold or beta outside 0 to 1, a base with weights under 0.
    """

    name: ClassVar[str] = "sink-calibration"
    source: ClassVar[str] = "ACT: Yu et al. 2024, arXiv 2406.15765; rule and defaults as in its code"
    two_pass: ClassVar[bool] = True

    threshold: float = 0.1
    beta: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.threshold <= 1 and 0 <= self.beta <= 1):
            raise InterpError("E205", f"threshold={self.threshold}, beta={self.beta}", fix="both from 0 to 1")
        if not self.non_negative:
            raise InterpError("E205", f"weights of {self.inner.name} may be under 0", fix="take a base whose are not")

    @property
    def looks_ahead(self) -> str:
        return "which columns are sinks follows from all queries"

    def weights(self, view: View) -> Weights:
        sinks = view.problem.once((self, "sinks"), self.sinks)[:, view.heads, None]
        inner = self.inner.weights(view)
        rest = inner.values.masked_fill(sinks, 0.0)
        total = rest.sum(-1, keepdim=True)
        taken = (1 - self.beta) * (inner.values - rest).sum(-1, keepdim=True)
        share = rest / total.masked_fill(total == 0, 1.0)
        moved = torch.where(sinks, self.beta * inner.values, rest + taken * share)
        return inner._replace(values=torch.where(total > 0, moved, inner.values))

    @torch.no_grad()
    def sinks(self, problem: Problem) -> Bool[Tensor, "batch head key_pos"]:
        """Columns that are turned down: more than `threshold`, and not the first such one of their document."""
        found = self._means(problem) > self.threshold
        count = found.long().cumsum(-1)
        before = (count - found.long()).gather(-1, starts(problem)[:, None].expand_as(count))
        return found & (count - before > 1)

    def _means(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        """Mean weight of each column over the queries that causality and the problem let see it."""
        sums = problem.q.new_zeros((problem.batch, problem.heads, problem.n_keys), dtype=problem.wide)
        counts = torch.zeros_like(sums)
        for view in blocks(problem):
            sums[:, view.heads] += self.inner.weights(view).values.sum(2)
            counts[:, view.heads] += (view.open & view.past if self.causal else view.open).sum(2)
        return sums / counts.clamp(min=1)
