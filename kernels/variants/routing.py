"""Softmax among tokens that lie near the same centroid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from interp.kernels.errors import InterpError
from interp.kernels.pieces import Piece, pieces
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Variant, Weights


class Members(NamedTuple):
    """Which queries and keys each cluster holds."""

    queries: Bool[Tensor, "batch head cluster query_pos"]
    keys: Bool[Tensor, "batch head cluster key_pos"]


@dataclass(frozen=True, eq=False)
class Routing(Variant):
    """Queries and keys, at unit length, are put to centroids by cosine; a query attends to the keys of its clusters:
    `W_ij = mean over the clusters of i, of softmax over their keys`. Rows of queries that find no key are 0.

    Args:
        clusters: how many, where no centroids are given.
        window: balanced: each cluster takes its `window` nearest queries and keys, by default as many as there are tokens
            to a cluster; a token may be in several clusters or none. The choice is made over the whole sequence.
        balanced: False puts every token into its nearest cluster alone, and lets every query see itself.
        centroids: [head or 1, cluster, d_head]; by default random directions, moved by `steps` steps of k-means on the
            queries and keys of each document.
        seed: of the random directions.

    Raises:
        InterpError: E205, a count under 1, or a window where nothing is balanced.
    """

    name: ClassVar[str] = "routing"
    source: ClassVar[str] = "Roy et al. 2021, Routing Transformer, arXiv 2003.05997, section 4"
    normalised = False
    two_pass = True

    clusters: int = 8
    window: int | None = None
    balanced: bool = True
    centroids: Float[Tensor, "head cluster d_head"] | None = None
    steps: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clusters < 1 or self.steps < 0 or (self.window is not None and self.window < 1):
            raise InterpError("E205", f"{self.clusters} clusters, {self.steps} steps, window {self.window}")
        if self.window is not None and not self.balanced:
            raise InterpError("E205", "a window for clusters that are not balanced", fix="balanced=True, or no window")

    @property
    def looks_ahead(self) -> str:
        if self.causal and self.balanced:
            return "clusters take their nearest tokens from the whole sequence"
        if self.causal and self.centroids is None and self.steps:
            return "centroids are found from all tokens"
        return super().looks_ahead

    def check(self, problem: Problem) -> str | None:
        if self.centroids is None:
            return None
        given, d_head = list(self.centroids.shape), problem.q.shape[3]
        fits = given[0] in (1, problem.n_heads) and given[2] == d_head
        return None if fits else f"centroids are {given}: [1 or {problem.n_heads}, cluster, {d_head}] is needed"

    def weights(self, view: View) -> Weights:
        members = view.problem.once((self, "members"), self._members)
        open = view.open & view.past if self.causal else view.open
        own = self._own(view) if self.causal and not self.balanced else None
        scores = view.products
        total, found = torch.zeros_like(scores), torch.zeros_like(scores[..., :1])
        for cluster in range(members.keys.shape[2]):
            here = members.keys[:, view.heads, cluster, None, :]
            here = (
                (here if own is None else here | own) & members.queries[:, view.heads, cluster, view.rows, None] & open
            )
            some = here.any(-1, keepdim=True)
            total = total + scores.masked_fill(~here & some, float("-inf")).softmax(-1) * some
            found = found + some
        return Weights(total / found.clamp(min=1))

    def _own(self, view: View) -> Bool[Tensor, "batch 1 row key_pos"]:
        return view.key == view.query

    def _members(self, problem: Problem) -> Members:
        with torch.no_grad():
            n = self.clusters if self.centroids is None else self.centroids.shape[1]
            empty = [
                torch.zeros(problem.batch, problem.heads, n, length, dtype=torch.bool, device=problem.q.device)
                for length in (problem.n_queries, problem.n_keys)
            ]
            for piece in pieces(problem):
                q, k = F.normalize(piece.q(), dim=-1), F.normalize(piece.k(), dim=-1)
                centroids = self._centroids(piece, q, k)
                empty[0][piece.batch, :, :, piece.queries] = self._taken(q, centroids, piece.real_queries())
                empty[1][piece.batch, :, :, piece.keys] = self._taken(k, centroids, piece.real_keys())
            return Members(empty[0], empty[1])

    def _taken(self, x: Tensor, centroids: Tensor, real: Tensor) -> Bool[Tensor, "batch head cluster position"]:
        """Which tokens each cluster takes."""
        near = torch.matmul(centroids, x.transpose(2, 3)).masked_fill(~real[:, None, None, :], float("-inf"))
        if not self.balanced:
            return F.one_hot(near.argmax(2), near.shape[2]).movedim(-1, 2).bool() & real[:, None, None, :]
        share = (
            -(-real.sum(-1) // near.shape[2]) if self.window is None else torch.full_like(real[:, 0].int(), self.window)
        )
        rank = near.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return (rank < share[:, None, None, None]) & real[:, None, None, :]

    def _centroids(self, piece: Piece, q: Tensor, k: Tensor) -> Float[Tensor, "#batch head cluster d_head"]:
        problem = piece.problem
        if self.centroids is not None:
            given = self.centroids if self.centroids.shape[0] == 1 else self.centroids[list(problem.head_index)]
            return F.normalize(given.to(q), dim=-1)[None].expand(-1, problem.heads, -1, -1)
        drawn = torch.randn(
            problem.n_heads,
            self.clusters,
            q.shape[3],
            generator=torch.Generator().manual_seed(self.seed),
            dtype=torch.float64,
        )
        centroids = F.normalize(drawn[list(problem.head_index)].to(q), dim=-1).expand(q.shape[0], -1, -1, -1)
        tokens = torch.cat([q, k], dim=2)
        real = torch.cat([piece.real_queries(), piece.real_keys()], dim=1)[:, None, :, None]
        for _ in range(self.steps):
            nearest = torch.matmul(tokens, centroids.transpose(2, 3)).argmax(-1)
            held = F.one_hot(nearest, self.clusters).to(q) * real
            sums = torch.matmul(held.transpose(2, 3), tokens)
            centroids = torch.where(held.sum(2)[..., None] > 0, F.normalize(sums, dim=-1), centroids)
        return centroids
