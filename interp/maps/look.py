"""One batch of prompts as a method sees it: patterns, their gradients, the stream at the start, and runs with changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.question import Question
from interp.heads.effects.gradient import Slopes
from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention
from interp.hooks.naive import read_output
from interp.hooks.names import point_name
from interp.hooks.rerun.sweep import sweep

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

STREAM = point_name("hook_resid_pre", 0)
"""Where tokens enter: the stream of the first layer, positions included where a model adds them."""


@dataclass(frozen=True, eq=False)
class Look:
    """Prompts start to stop of a question, under the interventions that are in force when it is asked.

    Attributes:
        neutral: id of the token that stands for no token; None where none is known.
        seed: of what is drawn, prompt by prompt.
    """

    model: HookedModel
    question: Question
    start: int
    stop: int
    neutral: int | None = None
    seed: int = 0

    @cached_property
    def batch(self) -> Batch:
        return self.model.batch(self.question.batch.rows(self.start, self.stop))

    @cached_property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Tokens that are no padding."""
        mask = self.batch.mask
        return torch.ones_like(self.batch.input_ids, dtype=torch.bool) if mask is None else mask

    @property
    def read_at(self) -> Int[Tensor, " batch"]:
        return self.question.read_at[self.start : self.stop]

    @cached_property
    def rows(self) -> Float[Tensor, "batch pos"]:
        """Weight of each position in what the metric reads: 1 at one position, or even over a pooled prompt."""
        at = self.read_at.to(self.real.device)
        one = torch.arange(self.real.shape[1], device=self.real.device) == at[:, None]
        even = self.real / self.real.sum(1, keepdim=True)
        return torch.where(at[:, None] < 0, even, one.to(even)).double()

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Layers with attention."""
        return tuple(layer for layer, n in enumerate(self.model.heads[""]) if n)

    @cached_property
    def clean(self) -> Float[Tensor, "batch d_out"]:
        """What the metric sees of the run without further changes."""
        return read_output(self.model(self.batch), self.batch, self.read_at).cpu()

    def metric(self, output: Float[Tensor, "batch d_out"]) -> Float[Tensor, " batch"]:
        """The metric of each prompt; gradients pass."""
        return self.question.measure(output.cpu(), self.start, self.stop, self.clean)

    @cached_property
    def baseline(self) -> Float[Tensor, " batch"]:
        """The metric without further changes."""
        return self.metric(self.clean).double()

    @cached_property
    def patterns(self) -> tuple[Float[Tensor, "batch head query_pos key_pos"], ...]:
        """Attention of each layer that has any, in float64; 0 in rows of padding."""
        names = [point_name("attn.hook_pattern", layer) for layer in self.layers]
        _, cache = self.model.run_with_cache(self.batch, names)
        return tuple(cache[name].double() * self.real[:, None, :, None] for name in names)

    @cached_property
    def values(self) -> tuple[Float[Tensor, "batch pos head d_head"], ...]:
        """The value that each query head reads, bias included, in float64."""
        names = [point_name("attn.hook_v", layer) for layer in self.layers]
        _, cache = self.model.run_with_cache(self.batch, names)
        heads = [self.model.heads[""][layer] for layer in self.layers]
        return tuple(
            cache[name].double().repeat_interleave(n // cache[name].shape[2], dim=2)
            for name, n in zip(names, heads, strict=True)
        )

    def w_out(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Output projection of a layer, in float64."""
        return self.model.w_out(layer).detach().double()

    @cached_property
    def pattern_slopes(self) -> tuple[Float[Tensor, "batch head query_pos key_pos"], ...]:
        """Gradient of each prompt's metric by the patterns; 0 in rows of padding."""
        found = self._slopes([point_name("attn.hook_pattern", layer) for layer in self.layers])
        return tuple(found[layer].double() * self.real[:, None, :, None] for layer in self.layers)

    @cached_property
    def stream_slope(self) -> Float[Tensor, "batch pos d_model"]:
        """Gradient of each prompt's metric by the stream that enters the first layer."""
        return self._slopes([STREAM])[0].double()

    def _slopes(self, names: Sequence[str]) -> Mapping[int, Tensor]:
        """By layer. Prompts do not see each other, so one backward pass of the sum serves them all."""
        seen = Slopes()
        hooks: dict[str, HookFn | Sequence[HookFn]] = {name: seen for name in names}
        output = self.model.run_with_hooks(self.batch, hooks, grad=True)
        total = self.metric(read_output(output, self.batch, self.read_at)).sum()
        zeros = dict(seen.zero)
        return dict(zip(zeros, torch.autograd.grad(total, list(zeros.values())), strict=True))

    def slope_at(self, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The same where something else enters the first layer."""
        leaf = stream.detach().requires_grad_()

        def put(value: Tensor, context: HookContext) -> Tensor:
            return leaf.to(value.dtype)

        output = self.model.run_with_hooks(self.batch, {STREAM: put}, grad=True)
        total = self.metric(read_output(output, self.batch, self.read_at)).sum()
        (slope,) = torch.autograd.grad(total, [leaf])
        return slope

    @cached_property
    def stream(self) -> Float[Tensor, "batch pos d_model"]:
        """What enters the first layer."""
        return self.model.run_with_cache(self.batch, STREAM)[1][STREAM]

    @cached_property
    def neutral_stream(self) -> Float[Tensor, "batch pos d_model"]:
        """What enters the first layer where every token is the neutral one, positions as they are."""
        assert self.neutral is not None, "no neutral token"
        inputs = {**self.batch.inputs, "input_ids": torch.full_like(self.batch.input_ids, self.neutral)}
        return self.model.run_with_cache(replace(self.batch, inputs=inputs), STREAM)[1][STREAM]

    def under(self, variants: Sequence[Intervention]) -> Float[Tensor, "variant batch"]:
        """The metric under each of some interventions, by the engine."""
        measure = lambda output, start, stop: self.metric(output)  # noqa: E731  # one batch, whole
        return sweep(self.model, self.batch, variants, self.read_at, measure, batch_size=self.batch.size)[0]
