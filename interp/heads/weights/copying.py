"""Heads of the kind: what they write raises the token they look at. Read off weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.readout import Readout
from interp.heads.weights.base import WeightScorer, random_rotation
from interp.heads.weights.matrices import Matrices, folded, matrices
from interp.hooks.names import HeadId
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Copying(WeightScorer):
    """Sum of the eigenvalues of W_E W_V W_O W_U over the sum of their absolute values, from -1 to 1.

    The same as those of the small matrix W_O W_U W_E W_V. Gains of the norms are folded in; the scale of a norm is
    positive and changes nothing. Chance is the head's own W_V and W_O with a random rotation between them, which keeps
    the size of everything they read and write.
    """

    name: ClassVar[str] = "copying"
    source: ClassVar[str] = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, 'copying heads'"
    says: ClassVar[str] = "what it writes raises the token that it looks at"
    chance: ClassVar[str] = "its W_V and W_O with a random rotation between them"

    def weigh(self, model: HookedModel, heads: Sequence[HeadId]) -> tuple[Float[Tensor, " head"], tuple[str, ...]]:
        return positivity(self._small(model, heads)), ()

    def drawn(
        self, model: HookedModel, heads: Sequence[HeadId], draws: int, generator: torch.Generator
    ) -> Float[Tensor, "head draw"]:
        small = self._small(model, heads)
        found = [positivity(random_rotation(small.shape[-1], generator) @ small) for _ in range(draws)]
        return torch.stack(found, 1)

    def _small(self, model: HookedModel, heads: Sequence[HeadId]) -> Float[Tensor, "head d_head d_head"]:
        """W_O W_U W_E W_V of each head."""
        through = _unembedding(model) @ _embedding(model)
        return torch.stack([own.o[head.head] @ through @ own.v[head.head] for own, head in _of_heads(model, heads)])


@dataclass(frozen=True, eq=False)
class CopyingTopK(WeightScorer):
    """Share of tokens t that are among the k highest of row t of W_E W_V W_O W_U.

    Chance is another token than the own: the same share with the tokens shuffled.

    Attributes:
        k: how many of the highest count.
        tokens: how many tokens are asked, drawn without replacement; None asks all of them.

    Raises:
        InterpError: E205, k or tokens under 1.
    """

    name: ClassVar[str] = "copying-top-k"
    source: ClassVar[str] = "Elhage et al. 2021; k = 1 is `top_1_acc` of ARENA, which takes all tokens"
    says: ClassVar[str] = "what it writes raises the token that it looks at above nearly all others"
    chance: ClassVar[str] = "another token than the one it looks at"

    k: int = 5
    tokens: int | None = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1 or (self.tokens is not None and self.tokens < 1):
            raise InterpError("E205", f"k={self.k} of {self.tokens} tokens", where=f"scorer {self.name}", fix="from 1")

    def weigh(self, model: HookedModel, heads: Sequence[HeadId]) -> tuple[Float[Tensor, " head"], tuple[str, ...]]:
        asked, highest = self._highest(model, heads)
        return (highest == asked[:, None]).any(-1).double().mean(-1), ()

    def drawn(
        self, model: HookedModel, heads: Sequence[HeadId], draws: int, generator: torch.Generator
    ) -> Float[Tensor, "head draw"]:
        asked, highest = self._highest(model, heads)
        shuffled = [asked[torch.randperm(len(asked), generator=generator)] for _ in range(draws)]
        return torch.stack([(highest == other[:, None]).any(-1).double().mean(-1) for other in shuffled], 1)

    def _highest(
        self, model: HookedModel, heads: Sequence[HeadId]
    ) -> tuple[Int[Tensor, " token"], Int[Tensor, "head token k"]]:
        """The tokens that are asked, and those that each head raises most for each of them."""
        embedding, unembedding = _embedding(model), _unembedding(model)
        count = len(embedding) if self.tokens is None else min(self.tokens, len(embedding))
        draw = torch.Generator().manual_seed(self.draw_seed)
        asked = torch.randperm(len(embedding), generator=draw)[:count].to(embedding.device)
        rows = [
            (embedding[asked] @ own.v[head.head] @ own.o[head.head] @ unembedding).topk(self.k).indices
            for own, head in _of_heads(model, heads)
        ]
        return asked, torch.stack(rows)


def positivity(small: Float[Tensor, "*head d d"]) -> Float[Tensor, "*head"]:
    """Sum of eigenvalues over the sum of their absolute values; 0 where all are 0."""
    values = torch.linalg.eigvals(small)
    size = values.abs().sum(-1)
    return torch.where(size > 0, values.real.sum(-1) / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)


def _of_heads(model: HookedModel, heads: Sequence[HeadId]) -> list[tuple[Matrices, HeadId]]:
    every = matrices(model)
    return [(every[head.layer], head) for head in heads]


def _embedding(model: HookedModel) -> Float[Tensor, "d_vocab d_model"]:
    found: Tensor = model.adapter.model.get_input_embeddings().weight  # type: ignore[attr-defined]
    return found.detach().double()


def _unembedding(model: HookedModel) -> Float[Tensor, "d_model d_vocab"]:
    """The output layer, behind the gain of the last norm (E403 where there is none)."""
    readout = Readout.of(model)
    return folded(readout.norm, readout.head.weight.detach().double()).T
