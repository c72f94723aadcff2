"""What keys receive from far ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Kind, Needs, Part, Reader, Statistic, there
from interp.kernels.statistics.masses import indices_are_positions
from interp.kernels.statistics.reading import diagonal
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class FutureInfluence(Statistic):
    """Future attention influence (FAI): the mean attention that a key receives from queries well after it,
    [batch head key_pos]; NaN for keys that no such query follows.

    From 'Attention Illuminates LLM Reasoning', where delta is 10 and the horizon 50.

    Args:
        delta: the nearest query that counts stands `delta` positions after the key.
        horizon: the last one; None counts all to the document's end.

    Raises:
        InterpError: E205, a delta under 0, or a horizon under delta.
    """

    name: ClassVar[str] = "future-influence"
    kind: ClassVar[Kind] = "column"
    formula: ClassVar[str] = "mean_{j + delta <= i <= j + horizon} p_ij"
    high: ClassVar[float] = 1.0

    delta: int = 10
    horizon: int | None = 50

    def __post_init__(self) -> None:
        if self.delta < 0 or (self.horizon is not None and self.horizon < self.delta):
            raise InterpError(
                "E205", f"queries from {self.delta} to {self.horizon} after a key", fix="0 <= delta <= horizon"
            )

    def begin(self, problem: Problem) -> Float[Tensor, "batch head key_pos"]:
        return problem.q.new_zeros(problem.batch, problem.heads, problem.n_keys, dtype=problem.wide)

    def add(self, total: Tensor, part: Part) -> None:
        distance = part.view.query - part.view.key
        far = distance >= self.delta
        if self.horizon is not None:
            far = far & (distance <= self.horizon)
        total[:, part.view.heads] += (part.pattern * far).sum(2)

    def finish(self, total: Tensor, problem: Problem) -> Tensor:
        counts = problem.once(("followers", self.delta, self.horizon), self._followers)[:, None]
        return torch.where(counts > 0, total / counts.clamp(min=1), float("nan"))

    def _followers(self, problem: Problem) -> Int[Tensor, "batch key_pos"]:
        """How many real queries of its document stand in each key's range."""
        n, at = problem.n_keys, torch.arange(problem.n_keys, device=problem.q.device)
        offset = n - problem.n_queries
        aligned = problem.real_queries if offset <= 0 else torch.nn.functional.pad(problem.real_queries, (offset, 0))
        known = torch.nn.functional.pad(aligned.int().cumsum(-1), (1, 0))
        end = _ends(problem) + max(0, -offset)
        first = torch.minimum(at + max(0, -offset) + self.delta, end)
        stop = end if self.horizon is None else torch.minimum(at + max(0, -offset) + self.horizon + 1, end)
        counts = known.gather(1, stop) - known.gather(1, first)
        return counts.masked_fill(~problem.real_keys, 0)

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader | None:
        """Single diagonals: those in the range, or those before it, which are taken from what keys receive in all."""
        if variant.looks_ahead or not indices_are_positions(problem):
            return None
        request = needs.request
        if self.horizon is not None:
            chosen, all_of_it = range(self.delta, self.horizon + 1), None
        else:
            chosen, all_of_it = range(self.delta), needs.column(problem.real_queries[:, None].to(problem.wide))

        def read(answer: Primitives) -> Tensor:
            total = self.begin(problem)
            for distance in chosen:
                _place(total, diagonal(request, answer.lse, distance), distance)
            if all_of_it is not None:
                total = (there(answer.columns)[:, :, all_of_it] - total).clamp(min=0)
            return self.finish(total, problem)

        return read


def _place(total: Tensor, diagonal: Float[Tensor, "batch head query_pos"], distance: int) -> None:
    """Adds what queries give to the keys `distance` before them."""
    skipped = max(0, distance - (total.shape[2] - diagonal.shape[2]))
    given = diagonal[:, :, skipped:]
    start = total.shape[2] - diagonal.shape[2] + skipped - distance
    total[:, :, start : start + given.shape[2]] += given


def _ends(problem: Problem) -> Int[Tensor, "batch key_pos"]:
    """One after the last key of each key's document."""
    n = problem.n_keys
    index = torch.arange(n, device=problem.q.device).expand(problem.batch, -1)
    if problem.documents is None:
        return torch.full_like(index, n)
    last = torch.ones_like(problem.real_keys)
    last[:, :-1] = problem.documents[:, 1:] != problem.documents[:, :-1]
    return torch.where(last, index + 1, n).flip(-1).cummin(-1).values.flip(-1)
