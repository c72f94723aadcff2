"""Experts of the kind: harmful requests are routed to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.effects.ablation import twins
from interp.heads.parts import ExpertId
from interp.heads.safety.routers import experts_of, routed
from interp.heads.scorer import Scorer, Scores
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

CONTRASTS = ("difference", "ratio")
ACTIVATIONS = ("weight", "count")


@dataclass(frozen=True, eq=False)
class ExpertContrast(Scorer):
    """What a routed expert gets over a harmful prompt, less what it gets over the harmless twin.

    fTRI sums each expert's activation over the tokens of a prompt and contrasts classes of prompts. Here the classes are the
    prompts and their twins, of equal length, so the mean over pairs is the difference of class means. The two accounts of the
    paper that we know disagree whether relevance is that difference (the default) or `(a - b) / (a + b)`. The paper's classes
    are those of the model's response; ours are those of the request. Chance is an expert that cannot tell the two apart: 0.

    Attributes:
        contrast: 'difference', or 'ratio' (of each pair; not defined where an expert is never chosen).
        activation: 'weight' that the router gives, or 'count' of the tokens that it chose the expert for.

    Raises:
        InterpError: E201, another contrast or activation.
    """

    name: ClassVar[str] = "expert-contrast"
    source: ClassVar[str] = "Dahlke et al. 2025, Mixture of Tunable Experts (fTRI), arXiv 2502.11096"
    says: ClassVar[str] = "harmful requests are routed to it"
    chance: ClassVar[str] = "as much as over the harmless twin"
    ceiling: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"corrupt"})
    axis: ClassVar[str] = "expert"
    task: ClassVar[str] = "safety"
    options: ClassVar[Mapping[str, Any]] = {"ask": "harmful"}

    contrast: str = "difference"
    activation: str = "weight"

    def __post_init__(self) -> None:
        self.check_choice("contrast", CONTRASTS)
        self.check_choice("activation", ACTIVATIONS)

    def every_part(self, model: HookedModel) -> tuple[ExpertId, ...]:
        return experts_of(model)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        one, other = (self._sums(model, side, heads, batch_size) for side in (pairs, twins(pairs)))
        values = one - other
        if self.contrast == "ratio":
            values = values / (one + other)
        return Scores(values.numpy(), torch.zeros_like(values).numpy())

    def _sums(
        self, model: HookedModel, pairs: Pairs, experts: Sequence[HeadId], batch_size: int
    ) -> Float[Tensor, "expert prompt"]:
        """Activation of each expert, summed over the tokens of each prompt."""
        columns = []
        for start, stop in batches(len(pairs), batch_size):
            batch = pairs.clean.rows(start, stop).to(model.device)
            found = routed(model, batch)
            columns.append(
                torch.stack([self._sum(found[one.layer][..., one.head], batch.mask) for one in experts]).cpu()
            )
        return torch.cat(columns, 1)

    def _sum(self, weights: Float[Tensor, "batch pos"], mask: Tensor | None) -> Float[Tensor, " batch"]:
        values = weights if self.activation == "weight" else (weights > 0).double()
        return (values if mask is None else values * mask).sum(1)
