"""Sparse attention corrected by the dense attention of some rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.block_pools import documents_of
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Variant, Weights
from interp.kernels.variants.rowwise import Rowwise
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True, eq=False)
class DeltaCorrection(Variant):
    """Every `every`-th row of a document is an anchor, computed densely; rows after it get what it gained:
    `W_i = W^sparse_i + W^dense_g - W^sparse_g`, g the last anchor up to i. Weights of either sign, rows that sum to 1.
    The last rows of a document, `length mod every` and `max(tail, every)` more, are dense.

    Args:
        of: the operator that is corrected; its rows must sum to 1.
        dense: what it is corrected by: softmax attention, causal and capped as `of` is, by default.
        tail: see above; 0 leaves no rows dense but the anchors.

    Raises:
        InterpError: E205, a step under 1, rows that do not sum to 1, or one operator causal and another not.
    """

    name: ClassVar[str] = "delta"
    source: ClassVar[str] = "Willette et al. 2025, Delta Attention, arXiv 2505.11254, eq. 5; dense rows as in its code"
    non_negative = False
    two_pass = True

    of: Variant = field(kw_only=True)
    dense: Variant | None = None
    every: int = 64
    tail: int = 128

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InterpError("E205", f"an anchor every {self.every} rows", fix="every=1 or more")
        if not self.of.normalised or not self._dense.normalised:
            raise InterpError("E205", f"rows of {self.of.name} do not sum to 1, and a correction would not either")
        if not self.causal == self.of.causal == self._dense.causal:
            raise InterpError(
                "E205", "some of it is causal and some is not", fix=f"causal={self.of.causal} for all of it"
            )

    @property
    def _dense(self) -> Variant:
        softcap = self.of.softcap if isinstance(self.of, Rowwise) else None
        return Softmax(causal=self.of.causal, softcap=softcap) if self.dense is None else self.dense

    @property
    def looks_ahead(self) -> str:
        return self.of.looks_ahead or self._dense.looks_ahead

    def check(self, problem: Problem) -> str | None:
        return self.of.check(problem) or self._dense.check(problem)

    def weights(self, view: View) -> Weights:
        start, stop, _ = view.rows.indices(view.problem.n_queries)
        first = max(0, start - self.every + 1)
        wider = replace(view, rows=slice(first, stop))
        sparse, dense = self.of.weights(wider).values, self._dense.weights(wider).values
        anchor, plain = self._rows(view, start, stop)
        at = (anchor - first).clamp(min=0)[:, None, :, None].expand(-1, sparse.shape[1], -1, sparse.shape[3])
        gained = (dense - sparse).gather(2, at)
        here = slice(start - first, stop - first)
        return Weights(torch.where(plain[:, None, :, None], dense[:, :, here], sparse[:, :, here] + gained))

    def _rows(self, view: View, start: int, stop: int) -> tuple[Int[Tensor, "batch row"], Bool[Tensor, "batch row"]]:
        """The anchor of each row, and which rows are dense: the last ones, and those whose anchor is no row of the call."""
        problem = view.problem
        place = problem.query_at[:, start:stop]
        anchor = torch.arange(start, stop, device=place.device) - place.remainder(self.every)
        left = problem.once("rows left", _rows_left)[:, start:stop]
        length = place + left
        tail = length % self.every + max(self.tail, self.every) if self.tail > 0 else torch.zeros_like(length)
        return anchor, (left <= tail) | (anchor < 0)


def _rows_left(problem: Problem) -> Int[Tensor, "batch query_pos"]:
    """How many real rows of its document there are from each on, itself included."""
    documents, real = documents_of(problem)[1], problem.real_queries
    n = problem.n_queries
    index = torch.arange(n, device=real.device).expand(problem.batch, -1)
    ends = torch.ones_like(real)
    ends[:, :-1] = documents[:, 1:] != documents[:, :-1]
    ends = (ends | (real & ~torch.nn.functional.pad(real[:, 1:], (0, 1)))) if problem.key_mask is not None else ends
    last = torch.where(ends, index, n).flip(1).cummin(1).values.flip(1)
    return last - index + 1
