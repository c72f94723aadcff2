"""Scores read off weights alone, held against random weights of the same sizes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.scorer import Scorer, Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

DRAWS_A_HEAD, MOST_DRAWS = 20, 1000
"""Random draws for each head of the family, so that one head among all can pass the false-discovery control at 5 %; and
where that ends, because every draw is as much work as the score itself."""

ROUNDING = 1e-9
"""Draws that miss a score by less than this reach it."""


@dataclass(frozen=True, eq=False)
class WeightScorer(Scorer):
    """A score of weights. By chance is the mean over random draws, and p the share of draws that score as much.

    Attributes:
        draws: random draws; None takes enough for one head among all to be claimed, up to 1000.
        draw_seed: of the draws.

    Raises:
        InterpError: E205, fewer than 1 draw.
    """

    task: ClassVar[str] = ""

    draws: int | None = None
    draw_seed: int = 0

    def __post_init__(self) -> None:
        if self.draws is not None and self.draws < 1:
            raise InterpError("E205", f"{self.draws} random draws", where=f"scorer {self.name}", fix="at least 1")

    @abstractmethod
    def weigh(self, model: HookedModel, heads: Sequence[HeadId]) -> tuple[Float[Tensor, " head"], tuple[str, ...]]:
        """The score of each head, and notes."""

    @abstractmethod
    def drawn(self, model: HookedModel, heads: Sequence[HeadId], draws: int, generator: torch.Generator) -> Tensor:
        """What random weights score, [head draw]."""

    def measure(self, model: HookedModel, pairs: Pairs | None, heads: Sequence[HeadId], batch_size: int = 0) -> Scores:
        """Scores as a table of one column; prompts are not read."""
        n = self.n_draws(len(heads))
        values, notes = self.weigh(model, heads)
        null = self.drawn(model, heads, n, torch.Generator().manual_seed(self.draw_seed))
        reached = (null >= values[:, None] - ROUNDING).sum(1)
        p = torch.where(values.isfinite(), (reached + 1) / (n + 1), torch.nan)
        columns = [part.double().cpu().numpy().reshape(-1, 1) for part in (values, null.mean(1))]
        return Scores(columns[0], columns[1], notes=notes, p=np.asarray(p.double().cpu()))

    def n_draws(self, n_heads: int) -> int:
        """How many draws a run over these heads makes."""
        return min(MOST_DRAWS, DRAWS_A_HEAD * n_heads) if self.draws is None else self.draws


def random_rotation(size: int, generator: torch.Generator) -> Float[Tensor, "size size"]:
    """Orthogonal, uniformly: Q of a normal matrix, with the signs of R's diagonal (Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()
