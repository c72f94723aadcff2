"""Attention between patches and the class token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.vision.base import PatchScorer
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Part, RowStatistic, Statistic
from interp.kernels.statistics.per_head import PerHead
from interp.vision.geometry import Geometry

SIDES = ("received", "given")
VARIANTS = ("paper", "official-code")


@dataclass(frozen=True, eq=False)
class ClassAttention(PatchScorer):
    """Mean attention of patches to the class token, or the attention that the class token gives to patches.

    Attributes:
        side: 'received', from patches to the class token; 'given', from the class token to all patches together.
        code: 'official-code' takes the token behind the first one, as the published code of Walmer et al. does: its
            class token is the first, and the code reads the column of the first patch instead.

    Raises:
        InterpError: E201, another word for a parameter; E205, the published code's slip for attention that is given. When
            it runs: E403, a tower without a class token.
    """

    name: ClassVar[str] = "class-attention"
    source: ClassVar[str] = "Walmer et al. 2023, arXiv 2212.03862; Psomas et al. 2025, arXiv 2506.10178"
    says: ClassVar[str] = "patches and the class token look at each other"
    chance: ClassVar[str] = "even attention to every token"

    side: str = "received"
    code: str = "paper"

    def __post_init__(self) -> None:
        self.check_choice("side", SIDES)
        self.check_choice("code", VARIANTS)
        if self.side == "given" and self.code != "paper":
            raise InterpError("E205", "the published code has no attention that is given", fix="code='paper'")

    @property
    def variant(self) -> str:
        return self.code

    def statistic(self, where: Geometry) -> Statistic:
        tokens = where.special.get("cls", ())
        if not tokens:
            fix = "choose patch-distance or offset-local, which need none"
            raise InterpError("E403", "this tower has no class token", where=f"scorer {self.name}", fix=fix)
        if self.side == "given":
            return _over(tokens, TokenShare(where.patches), where)
        keys = tokens if self.code == "paper" else (tokens[0] + 1,)
        return _over(where.patches, TokenShare(keys), where)


@dataclass(frozen=True, eq=False)
class TokenShare(RowStatistic):
    """What some tokens get of each row, and what even attention would give them."""

    name: ClassVar[str] = "token-share"
    formula: ClassVar[str] = "sum_{k in tokens} A_qk"
    high: ClassVar[float] = 1.0

    tokens: tuple[int, ...]

    def width(self, problem: Problem) -> tuple[int, ...]:
        return (2,)

    def of(self, part: Part) -> Float[Tensor, "batch head row two"]:
        share = part.pattern[..., list(self.tokens)].sum(-1)
        return torch.stack([share, torch.full_like(share, len(self.tokens) / part.pattern.shape[-1])], -1)


def _over(queries: tuple[int, ...], statistic: RowStatistic, where: Geometry) -> PerHead:
    """Mean over some queries."""
    chosen = torch.zeros(1, where.n_tokens, dtype=torch.bool)
    chosen[:, list(queries)] = True
    return PerHead(of=statistic, queries=chosen)
