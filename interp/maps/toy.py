"""The toy `deceptive-attention` as methods see models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.hooks.interventions import Intervention
from interp.maps.look import STREAM, Look
from interp.maps.removal import WHERE, Replaced, Unseen
from interp.maps.suppression.atman import FACTORS, Suppressed, turned_down
from interp.zoo.toys.deceptive_attention import Pooled

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ToyLook(Look):
    """The toy as methods see models: one layer with one head, and the query that pools all tokens as the last position.

    It has no hooks, so `model` and `question` stay None. The metric is the logit of the class less the largest other.
    """

    toy: Pooled = field(kw_only=True)
    tokens: Int[Tensor, "batch text"] = field(kw_only=True)
    label: Int[Tensor, " batch"] = field(kw_only=True)

    @cached_property
    def real(self) -> Bool[Tensor, "batch pos"]:
        return torch.ones(len(self.tokens), self.tokens.shape[1] + 1, dtype=torch.bool)

    @cached_property
    def rows(self) -> Float[Tensor, "batch pos"]:
        last: Tensor = nn.functional.one_hot(torch.full((len(self.tokens),), self.tokens.shape[1])).double()
        return last

    @cached_property
    def layers(self) -> tuple[int, ...]:
        return (0,)

    def logits(
        self, x: Float[Tensor, "batch text width"], change: Change = lambda scores: scores, slope: Tensor | None = None
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch text"]]:
        """The metric and the pattern.

        Args:
            change: of the scores.
            slope: added to the pattern, for its gradient.
        """
        mixed = self.mixed(x)
        pattern = change(self.toy.key(mixed)[..., 0]).softmax(-1) + (0 if slope is None else slope)
        out = self.toy.out(einsum(pattern, mixed, "batch text, batch text width -> batch width"))
        own = out.gather(1, self.label[:, None])[:, 0]
        return own - out.scatter(1, self.label[:, None], -torch.inf).amax(1), pattern

    def mixed(self, x: Float[Tensor, "batch text width"]) -> Float[Tensor, "batch text width"]:
        """Each token with its neighbours."""
        return x + self.toy.near(x.transpose(1, 2)).transpose(1, 2)

    @cached_property
    def text(self) -> Float[Tensor, "batch text width"]:
        """Embeddings."""
        return self.toy.embed(self.tokens)

    @cached_property
    def baseline(self) -> Float[Tensor, " batch"]:
        return self.logits(self.text)[0].double()

    @cached_property
    def patterns(self) -> tuple[Float[Tensor, "batch head query_pos key_pos"], ...]:
        return (self._square(self.logits(self.text)[1]) + torch.eye(self.real.shape[1]).double() * ~self._asks,)

    @cached_property
    def _asks(self) -> Bool[Tensor, "pos 1"]:
        """True in the row of the query; other rows look at themselves alone."""
        return (torch.arange(self.real.shape[1]) == self.tokens.shape[1])[:, None]

    def _square(self, row: Float[Tensor, "batch text"]) -> Float[Tensor, "batch 1 pos pos"]:
        """A row of the query, and nothing in all others."""
        return nn.functional.pad(row, (0, 1))[:, None, None, :].double() * self._asks

    @cached_property
    def values(self) -> tuple[Float[Tensor, "batch pos head d_head"], ...]:
        return (nn.functional.pad(self.mixed(self.text), (0, 0, 0, 1))[:, :, None].double(),)

    def w_out(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        return self.toy.out.weight.T[None].double()

    @cached_property
    def pattern_slopes(self) -> tuple[Float[Tensor, "batch head query_pos key_pos"], ...]:
        zero = torch.zeros(self.tokens.shape, requires_grad=True)
        (slope,) = torch.autograd.grad(self.logits(self.text, slope=zero)[0].sum(), [zero])
        return (self._square(slope),)

    @cached_property
    def stream(self) -> Float[Tensor, "batch pos d_model"]:
        return nn.functional.pad(self.text, (0, 0, 0, 1))

    @cached_property
    def stream_slope(self) -> Float[Tensor, "batch pos d_model"]:
        return self.slope_at(self.stream).double()

    def slope_at(self, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        leaf = stream.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.logits(leaf[:, :-1])[0].sum(), [leaf])
        return slope

    @cached_property
    def neutral_stream(self) -> Float[Tensor, "batch pos d_model"]:
        """The mean embedding of all sequences, as the toy's own ablation has it."""
        return nn.functional.pad(self.text.mean((0, 1)).expand_as(self.text), (0, 0, 0, 1))

    def under(self, variants: Sequence[Intervention]) -> Float[Tensor, "variant batch"]:
        return torch.stack([self._under(one) for one in variants]).double()

    def _under(self, variant: Intervention) -> Float[Tensor, " batch"]:
        """The metric under one of the interventions that maps are made of."""
        if isinstance(variant, Replaced):
            x = torch.where(variant.where[WHERE][:, :-1, None], variant.stream[STREAM][:, :-1], self.text)
            return self.logits(x)[0]
        if isinstance(variant, Unseen):
            gone = variant.where[WHERE][:, :-1]
            return self.logits(self.text, lambda scores: scores.masked_fill(gone, torch.finfo(scores.dtype).min))[0]
        assert isinstance(variant, Suppressed), f"no {type(variant).__name__} in the toy"
        factors = variant.factors[FACTORS][:, :-1]

        def down(scores: Tensor) -> Tensor:
            rows = scores[:, None, None]
            return turned_down(rows, rows.amin(-1, keepdim=True), factors)[:, 0, 0]

        return self.logits(self.text, down)[0]
