"""The keys that get most of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Part, RowStatistic


@dataclass(frozen=True, eq=False)
class TopMasses(RowStatistic):
    """What the k keys get that get most of a row, most first: [batch head query_pos k]; 0 where there are no more.

    Raises:
        InterpError: E205, fewer than 1 key.
    """

    name: ClassVar[str] = "top-masses"
    formula: ClassVar[str] = "the k largest p_ij"
    high: ClassVar[float] = 1.0

    k: int = 8

    def __post_init__(self) -> None:
        _check(self.k)

    def width(self, problem: Problem) -> tuple[int, ...]:
        return (self.k,)

    def of(self, part: Part) -> Float[Tensor, "batch head row k"]:
        return _most(part, self.k)[0]


@dataclass(frozen=True, eq=False)
class TopKeys(RowStatistic):
    """The indices of the keys of `TopMasses`: [batch head query_pos k], int64, -1 where there are no more with any
    weight, and at padding queries.

    Raises:
        InterpError: E205, fewer than 1 key.
    """

    name: ClassVar[str] = "top-keys"
    formula: ClassVar[str] = "the j of the k largest p_ij"
    low: ClassVar[float] = -1.0
    names_keys: ClassVar[bool] = True

    k: int = 8

    def __post_init__(self) -> None:
        _check(self.k)

    def begin(self, problem: Problem) -> Int[Tensor, "batch head query_pos k"]:
        return torch.full((*problem.q.shape[:3], self.k), -1, dtype=torch.int64, device=problem.q.device)

    def of(self, part: Part) -> Int[Tensor, "batch head row k"]:
        return _most(part, self.k)[1]

    def finish(self, total: Tensor, problem: Problem) -> Tensor:
        return total.masked_fill(~problem.real_queries[:, None, :, None], -1)


def _check(k: int) -> None:
    if k < 1:
        raise InterpError("E205", f"the first {k} keys", fix="k=1 or more")


def _most(part: Part, k: int) -> tuple[Tensor, Tensor]:
    most = part.pattern.topk(min(k, part.pattern.shape[-1]), -1)
    spare = (0, k - most.values.shape[-1])
    keys = most.indices.masked_fill(most.values <= 0, -1)
    return torch.nn.functional.pad(most.values, spare), torch.nn.functional.pad(keys, spare, value=-1)
