"""Operators whose weights follow from a row of scores: what is added to scores, what may be seen, how a row becomes weights."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backends.primitives import Rows
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Variant, Weights


class Span(NamedTuple):
    """Positions that a query sees: `low <= p < high`, and `first <= p < stop` too. None: from the start, to the end."""

    low: Int[Tensor, "#batch #head query_pos"] | None = None
    high: Int[Tensor, "#batch #head query_pos"] | None = None
    first: Int[Tensor, "#batch #head query_pos"] | None = None
    stop: Int[Tensor, "#batch #head query_pos"] | None = None


@dataclass(frozen=True, eq=False)
class Rowwise(Variant):
    """Weights from rows of scores.

    Args:
        softcap: scores become `softcap * tanh(score / softcap)`, before anything is added.
    """

    takes_bias = True

    softcap: float | None = None

    def weights(self, view: View) -> Weights:
        allowed = self.allowed(view)
        return self.row(self.scores(view).masked_fill(~allowed, float("-inf")), allowed, view)

    @abstractmethod
    def row(
        self,
        scores: Float[Tensor, "batch head row key_pos"],
        allowed: Bool[Tensor, "#batch #head row key_pos"],
        view: View,
    ) -> Weights:
        """Weights from scores, which are -inf where nothing may be seen."""

    def scores(self, view: View) -> Float[Tensor, "batch head row key_pos"]:
        """Scores before the mask: `softcap(scale <q_i, k_j>)`, the problem's bias, the operator's own."""
        scores = view.products
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        for added in (view.bias, self.added(view)):
            if added is not None:
                scores = scores + added
        return scores

    def added(self, view: View) -> Float[Tensor, "#batch #head row key_pos"] | None:
        """What the operator adds to scores; None for nothing."""
        return None

    def allowed(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        """What each query of the view sees: what the problem and causality let it see, and the operator's own rule."""
        allowed = view.open & view.past if self.causal else view.open
        seen = self.seen(view)
        return allowed if seen is None else allowed & seen

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"] | None:
        """The operator's own rule, on positions; None where it has none."""
        return None

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span | str:
        """The rule of `seen` as intervals of positions for queries that stand `at` these; or why it can't be said so."""
        return Span() if type(self).seen is Rowwise.seen else f"what {self.name} lets be seen is no interval of keys"

    def rows(self, problem: Problem) -> Rows | str:
        """The keys that each query sees as intervals of indices; or why they are none."""
        if problem.mask is not None:
            return "the mask is given cell by cell"
        if problem.bias is not None:
            return "the bias is given cell by cell"
        at = problem.query_at[:, None, :]
        span = self.span(at, problem)
        if isinstance(span, str):
            return span
        bounds = problem.once("bounds", _bounds)
        if isinstance(bounds, str):
            return bounds
        start, length = (bound[:, None, :] for bound in bounds)
        end = torch.minimum(length, at + 1) if self.causal else length
        low, high = _cut(span.low, span.high, start, end)
        first, stop = (low, low) if span.stop is None else _cut(span.first, span.stop, start, end)
        return Rows(low, high, first, stop)


def _cut(low: Tensor | None, high: Tensor | None, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Positions to indices of keys, cut to what exists."""
    low = torch.zeros_like(end) if low is None else low.clamp(min=0)
    high = end if high is None else torch.minimum(high, end)
    return (low + start).int(), (torch.maximum(high, low) + start).int()


def _bounds(problem: Problem) -> tuple[Tensor, Tensor] | str:
    """For each query, the index of its document's first key and the document's length; 0 and 0 at padding queries."""
    real = problem.real_keys
    edges = (real[:, 1:] != real[:, :-1]).sum(-1) + real[:, 0].int() + real[:, -1].int()
    if bool((edges > 2).any()):
        return "padding lies between real keys"
    index = torch.arange(problem.n_keys, device=real.device)
    start = index - problem.key_at
    document = start if problem.documents is None else problem.documents
    offset = problem.n_keys - problem.n_queries
    if offset < 0 or not problem.aligned:  # queries that stand nowhere among the keys: one document, all keys
        begin, count = start[:, :1].expand(-1, problem.n_queries), real.sum(-1, keepdim=True)
        return begin, count.expand(-1, problem.n_queries)
    same = problem.once("lengths", lambda p: _document_lengths(document, real))
    seen = problem.real_queries
    return torch.where(seen, start[:, offset:], 0), torch.where(seen, same[:, offset:], 0)


def _document_lengths(document: Tensor, real: Tensor) -> Tensor:
    """How many real keys the document of each key has, documents being contiguous."""
    change = torch.zeros_like(document)
    change[:, 1:] = (document[:, 1:] != document[:, :-1]).to(change.dtype)
    number = change.cumsum(-1).long()
    counts = torch.zeros_like(number).scatter_add_(1, number, real.long())
    return counts.gather(1, number)
