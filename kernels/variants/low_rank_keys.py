"""Softmax over the keys that score best in a few directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.pieces import Piece, pieces
from interp.kernels.problem import Problem, View
from interp.kernels.variants.selected import Selected, largest


@dataclass(frozen=True, eq=False)
class LowRankKeys(Selected):
    """Each query attends to the `keep` keys with the largest `<P q_i, P k_j>`, P being the first `rank` principal
    directions of the keys; scores of those are exact.

    Args:
        keep: keys to a query.
        rank: directions that choose.
        basis: orthonormal columns, most important first, [1, kv_head or head, d_head, rank or more], as from keys of other
            texts. By default the principal directions of each document's own keys, of each kv head, which is a look at
            later keys: `looks_ahead` says so.

    Raises:
        InterpError: E205, a count or rank under 1.
    """

    name: ClassVar[str] = "low-rank-keys"
    source: ClassVar[str] = "Singhania et al. 2024, Loki, arXiv 2406.02542, algorithm 1"

    keep: int = 64
    rank: int = 8
    basis: Float[Tensor, "1 head d_head direction"] | None = None

    def __post_init__(self) -> None:
        if min(self.keep, self.rank) < 1:
            raise InterpError("E205", f"{self.keep} keys by {self.rank} directions", fix="1 or more of each")

    @property
    def looks_ahead(self) -> str:
        ahead = "" if self.basis is not None else "the directions that choose are those of all keys, later ones too"
        return super().looks_ahead or ahead

    def check(self, problem: Problem) -> str | None:
        if self.basis is not None:
            given, d_head = list(self.basis.shape), problem.q.shape[3]
            if given[1] not in (1, problem.k.shape[1], problem.n_heads) or given[2] != d_head or given[3] < self.rank:
                return f"the basis is {given}: [1, kv_head or head, {d_head}, {self.rank} or more] is needed"
        return super().check(problem)

    def chosen(
        self, view: View, open: Bool[Tensor, "#batch #head row key_pos"]
    ) -> Bool[Tensor, "batch head row key_pos"]:
        low_q, low_k = view.problem.once((self, "low"), self._projected)
        scores = torch.matmul(low_q[:, view.heads, view.rows], low_k[:, view.heads].transpose(2, 3))
        return largest(scores.masked_fill(~open, float("-inf")), self.keep)

    def _projected(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Queries and keys along the directions that choose, [batch head position rank]."""
        rank = min(self.rank, problem.q.shape[3])
        q, k = (
            problem.q.new_zeros(problem.batch, problem.heads, n, rank, dtype=problem.wide)
            for n in (problem.n_queries, problem.n_keys)
        )
        for piece in pieces(problem):
            basis = self._basis(piece, rank)
            q[piece.batch, :, piece.queries] = torch.matmul(piece.q(), basis)
            k[piece.batch, :, piece.keys] = torch.matmul(piece.k(), basis)
        return q, k

    def _basis(self, piece: Piece, rank: int) -> Float[Tensor, "#batch head d_head rank"]:
        problem = piece.problem
        if self.basis is None:
            return principal_directions(piece)[:, problem.kv_index, :, :rank]
        index = problem.head_index if self.basis.shape[1] == problem.n_heads else problem.kv_index
        given = self.basis.expand(-1, problem.n_heads, -1, -1) if self.basis.shape[1] == 1 else self.basis
        return given[:, list(index), :, :rank].to(problem.q.device, problem.wide)


def principal_directions(piece: Piece) -> Float[Tensor, "batch kv_head d_head d_head"]:
    """Columns: principal directions of the real keys of each kv head, largest variance first."""
    keys = piece.problem.k[piece.batch, :, piece.keys].double()
    real = piece.real_keys()[:, None, :, None]
    n = real.sum(2, keepdim=True).clamp(min=1)
    centred = (keys - (keys * real).sum(2, keepdim=True) / n) * real
    vectors = torch.linalg.eigh(torch.matmul(centred.transpose(2, 3), centred) / n).eigenvectors
    return vectors.flip(-1).to(piece.problem.wide)
