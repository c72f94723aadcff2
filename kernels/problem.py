"""One attention problem: tensors, what may be seen, and where every token stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

T = TypeVar("T")
ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Problem:
    """What every variant, statistic and backend is handed.

    Query i is aligned with key `i + key_pos - query_pos` (bottom right), as in decoding with cached keys. Packed
    documents see nothing of each other, and positions count from 0 in each, so that a packed batch gives what its
    documents give alone.

    Attributes:
        q, k, v: query head h of `head_index` reads kv head `head_index[h] // (n_heads / kv_head)`.
        scale: of the product of queries and keys.
        key_mask: False at padding.
        documents: a number for each key's document.
        mask: what may be seen at all, beside the variant's own rule.
        bias: added to the scores of row-wise variants (after scale and softcap).
        head_index: which heads of a model these are: values that variants hold for each head are picked by it.
        n_heads: how many heads there are in all.
        aligned: False where queries stand nowhere among the keys (cross attention): all of them are real then.
    """

    q: Float[Tensor, "batch head query_pos d_head"]
    k: Float[Tensor, "batch kv_head key_pos d_head"]
    v: Float[Tensor, "batch kv_head key_pos d_value"]
    scale: float
    key_mask: Bool[Tensor, "batch key_pos"] | None = None
    documents: Int[Tensor, "batch key_pos"] | None = None
    mask: Bool[Tensor, "#batch #head query_pos key_pos"] | None = None
    bias: Float[Tensor, "#batch #head query_pos key_pos"] | None = None
    head_index: tuple[int, ...] = ()
    n_heads: int = 0
    aligned: bool = True
    memo: dict[object, Any] = field(default_factory=dict, repr=False)

    @property
    def batch(self) -> int:
        return self.q.shape[0]

    @property
    def heads(self) -> int:
        return self.q.shape[1]

    @property
    def n_queries(self) -> int:
        return self.q.shape[2]

    @property
    def n_keys(self) -> int:
        return self.k.shape[2]

    @property
    def wide(self) -> torch.dtype:
        """The dtype in which it is computed: float32 or better."""
        return torch.promote_types(self.q.dtype, torch.float32)

    @cached_property
    def kv_index(self) -> list[int]:
        """The kv head of each query head."""
        group = self.n_heads // self.k.shape[1]
        return [head // group for head in self.head_index]

    @cached_property
    def real_keys(self) -> Bool[Tensor, "batch key_pos"]:
        if self.key_mask is not None:
            return self.key_mask
        return torch.ones(self.batch, self.n_keys, dtype=torch.bool, device=self.q.device)

    @cached_property
    def real_queries(self) -> Bool[Tensor, "batch query_pos"]:
        """False at queries that stand where the keys are padding; all are real where queries have other positions."""
        if self.n_queries > self.n_keys or not self.aligned:
            return torch.ones(self.batch, self.n_queries, dtype=torch.bool, device=self.q.device)
        return self.real_keys[:, self.n_keys - self.n_queries :]

    @cached_property
    def key_at(self) -> Int[Tensor, "batch key_pos"]:
        """Position of each key, from 0 at the first real key of its document; negative in left padding."""
        index = torch.arange(self.n_keys, device=self.q.device).expand(self.batch, -1)
        first = self.real_keys.int().argmax(-1, keepdim=True)
        if self.documents is None:
            return index - first
        starts = torch.ones_like(self.real_keys)
        starts[:, 1:] = self.documents[:, 1:] != self.documents[:, :-1]
        starts |= index == first
        return index - torch.where(starts, index, 0).cummax(-1).values

    @cached_property
    def query_at(self) -> Int[Tensor, "batch query_pos"]:
        """Position of each query: that of the key that it is aligned with."""
        offset = self.n_keys - self.n_queries
        if offset >= 0:
            return self.key_at[:, offset:]
        ahead = torch.arange(offset, 0, device=self.q.device).expand(self.batch, -1)
        return torch.cat([ahead, self.key_at], dim=1)

    def view(self, heads: slice = ALL, rows: slice = ALL) -> View:
        return View(self, heads, rows)

    def once(self, key: object, make: Callable[[Problem], T]) -> T:
        """`make(self)`, computed at the first call with this key."""
        if key not in self.memo:
            self.memo[key] = make(self)
        return self.memo[key]

    def of_heads(self, heads: Sequence[int], aligned: bool | None = None) -> Problem:
        """The same problem for some of its heads alone; `aligned` as it is, unless it is given."""
        aligned = self.aligned if aligned is None else aligned
        if list(heads) == list(range(self.heads)) and aligned == self.aligned:
            return self
        chosen = torch.tensor(list(heads), device=self.q.device)
        return replace(
            self,
            q=self.q[:, chosen],
            mask=_pick(self.mask, chosen),
            bias=_pick(self.bias, chosen),
            head_index=tuple(self.head_index[head] for head in heads),
            aligned=aligned,
            memo={},
        )


def _pick(x: Tensor | None, heads: Tensor) -> Tensor | None:
    return x if x is None or x.shape[1] == 1 else x[:, heads]


@dataclass(frozen=True, eq=False)
class View:
    """Some heads and some query rows of a problem, with all its keys."""

    problem: Problem
    heads: slice
    rows: slice

    @cached_property
    def q(self) -> Float[Tensor, "batch head row d_head"]:
        return self.problem.q[:, self.heads, self.rows].to(self.problem.wide)

    @cached_property
    def k(self) -> Float[Tensor, "batch head key_pos d_head"]:
        return self._of_kv(self.problem.k)

    @cached_property
    def v(self) -> Float[Tensor, "batch head key_pos d_value"]:
        return self._of_kv(self.problem.v)

    def _of_kv(self, x: Tensor) -> Tensor:
        return x[:, self.problem.kv_index[self.heads]].to(self.problem.wide)

    @property
    def query(self) -> Int[Tensor, "batch 1 row 1"]:
        """Positions of the queries, ready to be compared with `key`."""
        return self.problem.query_at[:, None, self.rows, None]

    @property
    def key(self) -> Int[Tensor, "batch 1 1 key_pos"]:
        return self.problem.key_at[:, None, None, :]

    @property
    def products(self) -> Float[Tensor, "batch head row key_pos"]:
        """`scale <q_i, k_j>`."""
        return torch.matmul(self.q, self.k.transpose(2, 3)) * self.problem.scale

    @cached_property
    def open(self) -> Bool[Tensor, "#batch #head row key_pos"]:
        """What the problem lets be seen, whatever the variant: real keys of the query's document, for real queries."""
        problem = self.problem
        seen = problem.real_keys[:, None, None, :] & problem.real_queries[:, None, self.rows, None]
        if problem.documents is not None:
            of_query = problem.documents[:, problem.n_keys - problem.n_queries :][:, None, self.rows, None]
            seen = seen & (of_query == problem.documents[:, None, None, :])
        if problem.mask is not None:
            mask = problem.mask if problem.mask.shape[1] == 1 else problem.mask[:, self.heads]
            seen = seen & mask[:, :, self.rows]
        return seen

    @property
    def past(self) -> Bool[Tensor, "batch 1 row key_pos"]:
        """Causality: keys not after the query. Only together with `open` where documents are packed."""
        return self.key <= self.query

    @property
    def bias(self) -> Float[Tensor, "#batch #head row key_pos"] | None:
        bias = self.problem.bias
        if bias is None:
            return None
        return (bias if bias.shape[1] == 1 else bias[:, self.heads])[:, :, self.rows]

    def per_head(self, values: int | float | Sequence[int | float] | Tensor) -> Float[Tensor, "#head 1 1"]:
        """Values that a variant holds for each head of the model, for the heads in view."""
        if isinstance(values, int | float):
            return self.q.new_tensor([[[float(values)]]])
        index = list(self.problem.head_index[self.heads])
        return torch.as_tensor(values, dtype=self.q.dtype, device=self.q.device)[index, None, None]
