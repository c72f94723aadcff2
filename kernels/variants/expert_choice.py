"""Softmax among the few tokens that each head picks for itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.pieces import pieces
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Variant, Weights
from interp.kernels.variants.linear import picked


@dataclass(frozen=True, eq=False)
class ExpertChoice(Variant):
    """Each head takes the tokens with the best scores and attends among them: `W_ij = r_i softmax_j(s_ij)` for tokens i and
    j that it took, and 0 elsewhere. Rows sum to r_i or to 0.

    Args:
        scores: r, the router's, none under 0: [batch or 1, head or 1, key_pos], such as sigmoids.
        keep: tokens a head takes of a document; by default `max(2, length // sparsity)`.
        sparsity: see `keep`.
        first: whether each document's first token is always taken.

    Raises:
        InterpError: E205, a count under 1.
    """

    name: ClassVar[str] = "expert-choice"
    source: ClassVar[str] = "Piekos et al. 2025, MoSA, arXiv 2505.00315, section 2.2"
    normalised = False
    two_pass = True

    scores: Float[Tensor, "batch head key_pos"] = field(kw_only=True)
    keep: int | None = None
    sparsity: int = 4
    first: bool = False

    def __post_init__(self) -> None:
        if self.sparsity < 1 or (self.keep is not None and self.keep < 1):
            raise InterpError("E205", f"keep={self.keep}, sparsity={self.sparsity}", fix="1 or more")

    @property
    def looks_ahead(self) -> str:
        return super().looks_ahead or "which tokens a head takes is decided over the whole sequence"

    def check(self, problem: Problem) -> str | None:
        given = tuple(self.scores.shape)
        wanted = (problem.batch, problem.n_heads, problem.n_keys)
        if given[0] not in (1, wanted[0]) or given[1] not in (1, wanted[1]) or given[2] != wanted[2]:
            return f"scores are {list(given)}, and the problem {list(wanted)}"
        if problem.n_queries > problem.n_keys:
            return "scores are those of keys, and there are more queries than keys"
        if not bool((self.scores >= 0).all()):
            return f"scores go down to {float(self.scores.min()):g}; they multiply rows, so none may be under 0"
        return None

    def weights(self, view: View) -> Weights:
        problem = view.problem
        taken, scores = problem.once((self, "taken"), self._taken)
        taken, scores = taken[:, view.heads], scores[:, view.heads]
        offset = problem.n_keys - problem.n_queries
        open = view.open & view.past if self.causal else view.open
        seen = open & taken[:, :, None] & taken[:, :, offset:][:, :, view.rows, None]
        some = seen.any(-1, keepdim=True)
        p = view.products.masked_fill(~seen & some, float("-inf")).softmax(-1) * some
        return Weights(p * scores[:, :, offset:][:, :, view.rows, None])

    def _taken(
        self, problem: Problem
    ) -> tuple[Bool[Tensor, "batch head key_pos"], Float[Tensor, "batch head key_pos"]]:
        taken = torch.zeros(problem.batch, problem.heads, problem.n_keys, dtype=torch.bool, device=problem.q.device)
        scores = problem.q.new_zeros(taken.shape, dtype=problem.wide)
        for piece in pieces(problem):
            real = piece.real_keys()[:, None]
            given = picked(self.scores[:, :, piece.keys], piece, slice(None))
            keep = (real.sum(-1) // self.sparsity).clamp(min=2) if self.keep is None else self.keep
            liked = given.detach().expand(real.shape[0], problem.heads, -1).masked_fill(~real, float("-inf"))
            if self.first:
                liked = liked.masked_fill(real & (real.cumsum(-1) == 1), float("inf"))
            rank = liked.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
            limit = keep[..., None] if isinstance(keep, Tensor) else keep
            taken[piece.batch, :, piece.keys] = (rank < limit) & real
            scores[piece.batch, :, piece.keys] = given
        return taken, scores
