"""Heads of the kind: it reads what an earlier head wrote, through its queries, keys or values. Read off weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.heads.weights.base import WeightScorer, random_rotation
from interp.heads.weights.matrices import Matrices, matrices
from interp.hooks.names import HeadId

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

SOURCE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, 'composition'"
CHANCE = "the most over as many earlier heads, with a random rotation of the stream between the two"


@dataclass(frozen=True, eq=False)
class Composition(WeightScorer):
    """`||W_OV W|| / (||W_OV|| ||W||)` (Frobenius) with the earlier head where that is most; W is what the head reads by.

    Random matrices of rank r in a stream of width d come to about 1 / sqrt(d) and not to 0, so a value alone says nothing.
    Chance draws rotate the stream between the two heads, which keeps both maps as they are, and take the most over the
    same earlier heads. (ARENA subtracts the mean over matrices of normal numbers, which have other singular values.)
    Heads of the first layer have no earlier head and no score.
    """

    chance: ClassVar[str] = CHANCE

    @abstractmethod
    def reading(self, own: Matrices) -> tuple[Tensor, Tensor]:
        """The two factors of W, [head d_model d_head] each: W = first second^T."""

    def weigh(self, model: HookedModel, heads: Sequence[HeadId]) -> tuple[Float[Tensor, " head"], tuple[str, ...]]:
        table, labels = self.pairs(model, heads)
        most = table.max(0)
        best = [
            f"{head.label} reads {labels[int(partner)]}"
            for head, partner, value in zip(heads, most.indices, most.values, strict=True)
            if bool(value.isfinite())
        ]
        notes = (f"The earlier head of each score: {', '.join(best)}.",) if best else ()
        return most.values.masked_fill(most.values == -torch.inf, torch.nan), notes

    def pairs(self, model: HookedModel, heads: Sequence[HeadId]) -> tuple[Float[Tensor, "earlier head"], list[str]]:
        """The composition of every head of the model with each of these, -inf where it is not earlier; and its label."""
        written, read, is_earlier, labels = self._factors(model, heads)
        table = torch.linalg.matrix_norm(torch.einsum("eam,hmb->ehab", written, read))
        return table.masked_fill(~is_earlier, -torch.inf), labels

    def drawn(
        self, model: HookedModel, heads: Sequence[HeadId], draws: int, generator: torch.Generator
    ) -> Float[Tensor, "head draw"]:
        written, read, is_earlier, _ = self._factors(model, heads)
        found = []
        for _ in range(draws):
            turned = written @ random_rotation(written.shape[-1], generator).to(written.device)
            table = torch.linalg.matrix_norm(torch.einsum("eam,hmb->ehab", turned, read))
            found.append(table.masked_fill(~is_earlier, -torch.inf).amax(0))
        null = torch.stack(found, 1)
        return null.masked_fill(null == -torch.inf, torch.nan)

    def _factors(
        self, model: HookedModel, heads: Sequence[HeadId]
    ) -> tuple[Tensor, Tensor, Bool[Tensor, "earlier head"], list[str]]:
        """Unit factors: with A = Q R, `||A B|| = ||R B||`, so nothing of size d_model x d_model is made."""
        layers = matrices(model)
        written = torch.cat([_small(own.v) @ own.o for own in layers.values()])
        reads = {layer: self.reading(own) for layer, own in layers.items()}
        read = torch.stack(
            [reads[head.layer][0][head.head] @ _small(reads[head.layer][1])[head.head].T for head in heads]
        )
        places = [(layer, head) for layer, own in layers.items() for head in range(len(own.o))]
        is_earlier = torch.tensor([[layer < head.layer for head in heads] for layer, _ in places])
        labels = [f"L{layer}H{head}" for layer, head in places]
        return _unit(written), _unit(read), is_earlier.to(written.device), labels


@dataclass(frozen=True, eq=False)
class QComposition(Composition):
    """W = W_Q W_K^T."""

    name: ClassVar[str] = "q-composition"
    source: ClassVar[str] = SOURCE
    says: ClassVar[str] = "its queries read what an earlier head wrote"

    def reading(self, own: Matrices) -> tuple[Tensor, Tensor]:
        return own.q, own.k


@dataclass(frozen=True, eq=False)
class KComposition(Composition):
    """W = W_K W_Q^T."""

    name: ClassVar[str] = "k-composition"
    source: ClassVar[str] = SOURCE
    says: ClassVar[str] = "its keys read what an earlier head wrote"

    def reading(self, own: Matrices) -> tuple[Tensor, Tensor]:
        return own.k, own.q


@dataclass(frozen=True, eq=False)
class VComposition(Composition):
    """W = W_V W_O."""

    name: ClassVar[str] = "v-composition"
    source: ClassVar[str] = SOURCE
    says: ClassVar[str] = "its values read what an earlier head wrote"

    def reading(self, own: Matrices) -> tuple[Tensor, Tensor]:
        return own.v, own.o.transpose(1, 2)


def _small(factor: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head d_head d_head"]:
    """R of the factor's QR decomposition, which has the factor's norms."""
    return torch.linalg.qr(factor).R


def _unit(maps: Tensor) -> Tensor:
    """Each map over its norm; maps of nothing stay so."""
    size = torch.linalg.matrix_norm(maps)[:, None, None]
    return torch.where(size > 0, maps / size.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)
