"""Softmax over blocks of keys that score best when pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from interp.kernels.block_pools import Blocks, candidates, key_blocks, query_blocks
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.selected import Selected, covering, largest

POOLS: dict[str, Callable[[Blocks, Tensor], Tensor]] = {"mean": Blocks.mean, "max": Blocks.most, "min": Blocks.least}


@dataclass(frozen=True, eq=False)
class BlockTopK(Selected):
    """Each query attends to the `keep` blocks of keys before its own whose mean key it likes best, and to its own block;
    where not causal, to the `keep` best of all.

    Args:
        keep: blocks beside the query's own.
        size: keys to a block, counted from each document's start.
        query_size: queries that choose together, by their mean. Kernels take 64 or 128; with more than 1, later queries
            of a block have a say in what earlier ones see, and `looks_ahead` says so.

    Raises:
        InterpError: E205, a size or count under 1 (`keep` may be 0 where causal).
    """

    name: ClassVar[str] = "block-top-k"
    source: ClassVar[str] = "Lu et al. 2025, MoBA, arXiv 2502.13189, section 2.2"

    keep: int = 8
    size: int = 64
    query_size: int = 1

    def __post_init__(self) -> None:
        if min(self.size, self.query_size) < 1 or self.keep < (0 if self.causal else 1):
            raise InterpError(
                "E205", f"{self.keep} blocks of {self.size} keys for {self.query_size} queries", fix="1 or more of each"
            )

    @property
    def looks_ahead(self) -> str:
        if self.causal and self.query_size > 1:
            return f"the {self.query_size} queries of a block choose their keys together"
        return super().looks_ahead

    def chosen(
        self, view: View, open: Bool[Tensor, "#batch #head row key_pos"]
    ) -> Bool[Tensor, "batch head row key_pos"]:
        choice = candidates(view, self.size, self.query_size, self.causal)
        scores = self.block_scores(view).masked_fill(~choice, float("-inf"))
        kept = self.kept(scores, view) | ~choice
        number = key_blocks(view.problem, self.size).number[:, None, None, :]
        return kept.gather(-1, number.expand(-1, *kept.shape[1:3], -1))

    def kept(self, scores: Float[Tensor, "batch head row block"], view: View) -> Bool[Tensor, "batch head row block"]:
        """Which of the candidates are kept, from their scores; those that are none score -inf."""
        return largest(scores, self.keep)

    def block_scores(self, view: View) -> Float[Tensor, "batch head row block"]:
        """Pooled queries of the view's rows against pooled keys."""
        problem = view.problem
        pooled_q = problem.once((self, "q"), self.pooled_q)[:, view.heads]
        pooled_k = problem.once((self, "k"), self.pooled_k)[:, problem.kv_index[view.heads]]
        rows = query_blocks(problem, self.query_size).number[:, None, view.rows, None]
        q = pooled_q.gather(2, rows.expand(-1, pooled_q.shape[1], -1, pooled_q.shape[3]))
        return self.similarity(q, pooled_k, view) * problem.scale

    def similarity(self, q: Tensor, k: Tensor, view: View) -> Float[Tensor, "batch head row block"]:
        return torch.matmul(q, k.transpose(2, 3))

    def pooled_q(self, problem: Problem) -> Float[Tensor, "batch head block feature"]:
        return query_blocks(problem, self.query_size).mean(problem.q.to(problem.wide))

    def pooled_k(self, problem: Problem) -> Float[Tensor, "batch kv_head block feature"]:
        return key_blocks(problem, self.size).mean(problem.k.to(problem.wide))


@dataclass(frozen=True, eq=False)
class Sparge(BlockTopK):
    """Blocks that together hold a `share` of the softmax over pooled scores, largest first. Blocks whose keys differ much
    from each other can't be judged by their mean: they are always kept, and so is everything for queries that differ.

    Args:
        share: of the mass over pooled scores; 1 keeps everything. `keep` has no part in it.
        similarity_floor: mean cosine between the members of a block, under which it is not judged by its mean.
    """

    name: ClassVar[str] = "sparge"
    source: ClassVar[str] = "Zhang et al. 2025, SpargeAttn, arXiv 2502.18137, section 3.2"

    share: float = 0.9
    similarity_floor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise InterpError("E205", f"a share of {self.share:g}", fix="0 < share <= 1")

    def kept(self, scores: Float[Tensor, "batch head row block"], view: View) -> Bool[Tensor, "batch head row block"]:
        problem = view.problem
        alike_q, alike_k = problem.once((self, "alike"), self._alike)
        mixed = ~alike_k[:, problem.kv_index[view.heads], None]
        rows = query_blocks(problem, self.query_size).number[:, None, view.rows]
        queries = alike_q[:, view.heads].gather(2, rows.expand(-1, scores.shape[1], -1))
        judged = scores.masked_fill(mixed, float("-inf"))
        top = judged.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
        return covering((judged - top).exp(), self.share) | mixed | ~queries[..., None]

    def _alike(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Whether the queries, and the keys, of each block are alike: the mean cosine of all pairs is the squared length of
        the mean direction."""
        directions = [F.normalize(x.to(problem.wide), dim=-1) for x in (problem.q, problem.k)]
        pools = query_blocks(problem, self.query_size), key_blocks(problem, self.size)
        alike = [
            pool.mean(x).square().sum(-1) >= self.similarity_floor for pool, x in zip(pools, directions, strict=True)
        ]
        return alike[0], alike[1]


@dataclass(frozen=True, eq=False)
class Seer(BlockTopK):
    """The `keep` blocks that a learned gate likes best: pooled queries and keys, each through a linear map of its head.

    The published gate pools before the rotary embedding and turns pooled vectors by block; here q and k are pooled as they
    come.

    Args:
        pools: 'mean', 'max', 'min', side by side.
        q_map, k_map: [head or 1, d_head * pools, d_gate]; the identity by default.
    """

    name: ClassVar[str] = "seer"
    source: ClassVar[str] = "Gao et al. 2024, SeerAttention, arXiv 2410.13276, section 3.1"

    pools: Sequence[str] = ("mean", "max", "min")
    q_map: Float[Tensor, "head feature d_gate"] | None = None
    k_map: Float[Tensor, "head feature d_gate"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.pools) - set(POOLS))
        if unknown or not self.pools:
            raise InterpError("E205", f"pools {list(self.pools)}", fix=f"one or more of {', '.join(POOLS)}")

    def check(self, problem: Problem) -> str | None:
        features = problem.q.shape[3] * len(self.pools)
        for given, name in ((self.q_map, "q_map"), (self.k_map, "k_map")):
            if given is not None and (given.shape[0] not in (1, problem.n_heads) or given.shape[1] != features):
                return f"{name} is {list(given.shape)}: [1 or {problem.n_heads}, {features}, d_gate] is needed"
        return super().check(problem)

    def similarity(self, q: Tensor, k: Tensor, view: View) -> Float[Tensor, "batch head row block"]:
        return super().similarity(_mapped(q, self.q_map, view), _mapped(k, self.k_map, view), view)

    def pooled_q(self, problem: Problem) -> Float[Tensor, "batch head block feature"]:
        return self._pooled(query_blocks(problem, self.query_size), problem.q.to(problem.wide))

    def pooled_k(self, problem: Problem) -> Float[Tensor, "batch kv_head block feature"]:
        return self._pooled(key_blocks(problem, self.size), problem.k.to(problem.wide))

    def _pooled(self, blocks: Blocks, x: Tensor) -> Tensor:
        return torch.cat([POOLS[pool](blocks, x) for pool in self.pools], dim=-1)


def _mapped(x: Tensor, given: Tensor | None, view: View) -> Tensor:
    if given is None:
        return x
    chosen = given if given.shape[0] == 1 else given[list(view.problem.head_index[view.heads])]
    return torch.matmul(x, chosen.to(x))
