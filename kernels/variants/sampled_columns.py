"""Softmax over the nearest keys and over those that a sample of queries attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.kernels.block_pools import documents_of
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.selected import Selected, covering


@dataclass(frozen=True, eq=False)
class SampledColumns(Selected):
    """Each query attends to the nearest `window` keys, and to the fewest keys that together receive a `share` of the
    attention of sampled queries: every `every`-th of its document, and the last.

    Args:
        share: of the sampled queries' attention; 1 keeps every key.

    Raises:
        InterpError: E205, a window or step under 1, a share outside (0, 1].
    """

    name: ClassVar[str] = "sampled-columns"
    source: ClassVar[str] = "Zhu et al. 2024, SampleAttention, arXiv 2406.15486, section 4"

    window: int = 64
    every: int = 64
    share: float = 0.95

    def __post_init__(self) -> None:
        if min(self.window, self.every) < 1 or not 0 < self.share <= 1:
            raise InterpError(
                "E205",
                f"a window of {self.window}, every {self.every}th query, a share of {self.share:g}",
                fix="1 or more, and 0 < share <= 1",
            )

    @property
    def looks_ahead(self) -> str:
        return super().looks_ahead or "keys are chosen by queries from all over the sequence"

    def chosen(
        self, view: View, open: Bool[Tensor, "#batch #head row key_pos"]
    ) -> Bool[Tensor, "batch head row key_pos"]:
        columns = view.problem.once((self, "columns"), self._columns)[:, view.heads, None, :]
        return columns | ((view.query - view.key).abs() < self.window)

    def _columns(self, problem: Problem) -> Bool[Tensor, "batch head key_pos"]:
        sampled = self._sampled(problem)
        documents = documents_of(problem)[0]
        found = torch.zeros(problem.batch, problem.heads, problem.n_keys, dtype=torch.bool, device=problem.q.device)
        for batch in range(problem.batch):
            rows = sampled[batch].nonzero().flatten()
            inside = documents[batch] == documents[batch].unique()[:, None]
            for head in range(problem.heads):
                received = self._received(problem, batch, head, rows)
                found[batch, head] = (covering(received * inside, self.share) & inside).any(0)
        return found

    def _sampled(self, problem: Problem) -> Bool[Tensor, "batch query_pos"]:
        documents, real = documents_of(problem)[1], problem.real_queries
        last = torch.ones_like(real)
        last[:, :-1] = ~real[:, 1:] | (documents[:, 1:] != documents[:, :-1])
        return real & (last | (problem.query_at % self.every == self.every - 1))

    def _received(self, problem: Problem, batch: int, head: int, rows: Tensor) -> Tensor:
        """Attention that each key receives from some queries."""
        q = problem.q[batch, head, rows].to(problem.wide)
        k = problem.k[batch, problem.kv_index[head]].to(problem.wide)
        of_key, of_query = (documents[batch] for documents in documents_of(problem))
        open = problem.real_keys[batch] & (of_query[rows, None] == of_key)
        if self.causal:
            open = open & (problem.key_at[batch] <= problem.query_at[batch, rows, None])
        scores = (q @ k.T * problem.scale).masked_fill(~open, float("-inf"))
        return scores.softmax(-1).sum(0)
