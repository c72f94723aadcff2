"""What every adapter offers: hook points that are proven, hooks that leave no trace, and the plain forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.names import READ_ONLY, SQUARE, PointId
from interp.kernels.errors import InterpError


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What an attention function was called with, as the model calls it.

    Attributes:
        q, k, v: after rotary positions and the hooks on them.
        mask: added to scores, the lowest number of its dtype where nothing may be seen, or True where something may;
            None: nothing is hidden but what `causal` says.
        causal: where there is no mask, whether later keys are hidden.
        scaling: of the scores.
        options: what else the model said: softcap, s_aux (sink logits), position_bias, ...
    """

    q: Float[Tensor, "batch head query_pos d_head"]
    k: Float[Tensor, "batch kv_head key_pos d_head"]
    v: Float[Tensor, "batch kv_head key_pos d_value"]
    mask: Tensor | None
    causal: bool
    scaling: float
    options: Mapping[str, Any]

    def rows(self, start: int, stop: int) -> AttentionCall:
        """The call for some of its prompts; what stands once for all of them stays."""

        def cut(value: Any) -> Any:
            each = isinstance(value, Tensor) and value.ndim == 4 and len(value) == len(self.q)
            return value[start:stop] if each else value

        options = {name: cut(value) for name, value in self.options.items()}
        return AttentionCall(cut(self.q), cut(self.k), cut(self.v), cut(self.mask), self.causal, self.scaling, options)


@dataclass(frozen=True, eq=False)
class HookContext:
    """What a hook is told beside the tensor.

    Attributes:
        point: where it stands.
        batch: the batch that runs; None for a bare forward.
        start: position of the tensor's first token; above 0 where a vision model attends window by window, and in
            cached decoding, where the tensor shows the newest token alone.
        length: tokens of the whole layer or text, of which the tensor shows some; None where it shows them all.
        allowed: on scores and patterns, which keys each query may see [#batch #head query_pos key_pos]; None: all.
        call: on `attn.hook_operator`, what attention was called with.
    """

    point: PointId
    batch: Batch | None
    start: int = 0
    length: int | None = None
    allowed: Tensor | None = None
    call: AttentionCall | None = None

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def is_decoding(self) -> bool:
        """Whether earlier tokens of the text are in a cache, and this forward computes the newest one alone."""
        return self.batch is not None and self.batch.start > 0 and not self.point.tower

    @property
    def key_start(self) -> int:
        """On scores and patterns, position of the first key that is shown."""
        return 0 if self.is_decoding else self.start


HookFn = Callable[[Tensor, HookContext], Tensor | None]
Hooks = Mapping[str, Sequence[HookFn]]


class Operator(ABC):
    """A hook on `attn.hook_operator` that computes z of some heads anew, whatever the model's own attention gave."""

    heads: Sequence[int]

    @abstractmethod
    def __call__(self, value: Tensor, context: HookContext) -> Tensor: ...


def replaced_heads(hooks: Sequence[HookFn]) -> frozenset[int]:
    """Heads that these hooks compute anew, so that what they are shown of them is not read."""
    return frozenset(head for hook in hooks if isinstance(hook, Operator) for head in hook.heads)


Fired = Counter[str]


class Adapter(ABC):
    """One opened model.

    Attributes:
        heads: query heads of each layer for each tower; 0 in layers without attention.
        kv_heads: key/value heads likewise.
        available: hook points by name.
        refused: hook points this model cannot serve, with the reason.
        output_name: what the forward returns: 'logits', 'last_hidden_state', ...
        n_positions: how many tokens the model can place; None where nothing says so.
        n_tokens: how many tokens the model has embeddings for; None where nothing says so.
        answers_at_mask: a masked language model, which answers where the mask token stands.
        position_ids: how left padding is told to the model: 'argument', 'mask' (it reads the attention mask), or
            'none' (it cannot be told).
        probe_inputs: the smallest inputs that run every part of the model.
        seeing_tower: whose heads read pictures; None where none does.
    """

    heads: Mapping[str, tuple[int, ...]]
    kv_heads: Mapping[str, tuple[int, ...]]
    available: Mapping[str, PointId]
    refused: Mapping[str, str]
    output_name: str
    n_positions: int | None
    n_tokens: int | None
    answers_at_mask: bool
    position_ids: str
    probe_inputs: Mapping[str, Tensor]

    @property
    def seeing_tower(self) -> str | None:
        if "vision" in self.heads:
            return "vision"
        return "" if "pixel_values" in self.probe_inputs and "input_ids" not in self.probe_inputs else None

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the weights."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def attached(self, hooks: Hooks, batch: Batch | None) -> AbstractContextManager[Fired]:
        """Hooks are in place inside the block and gone after it, also after an error."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The model's primary output, with whatever hooks are attached."""

    @abstractmethod
    def plain_forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The same with nothing of ours in the way."""

    def new_cache(self) -> Any:
        """An empty cache of keys and values for `cached_forward`; None where this kind of model has none."""
        return None

    def cached_forward(self, inputs: Mapping[str, Any], cache: Any) -> Tensor:
        """Logits [batch 1 d_vocab] at the last token of a forward that continues what is in the cache, and joins it."""
        raise NotImplementedError

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens that end a text by the model's own settings."""
        return ()

    @abstractmethod
    def w_out(self, layer: int, tower: str = "") -> Tensor:
        """Output projection of a layer [head d_head d_model]."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a result records about the model."""


def fire_at(
    hooks: Sequence[HookFn], point: PointId, batch: Batch | None, fired: Fired, value: Tensor, *window: Any
) -> Tensor:
    """`run_hooks` at a point; `window` are the further fields of its context."""
    context = HookContext(point, batch, *window)
    return run_hooks(hooks, value, _in_text(context, value) if context.is_decoding else context, fired)


def _in_text(context: HookContext, value: Tensor) -> HookContext:
    """The context in cached decoding, where a tensor ends with the newest token and a forward tells no more."""
    assert context.batch is not None and context.batch.mask is not None
    width = context.batch.mask.shape[1]
    return replace(context, start=width - value.shape[2 if context.point.kind in SQUARE else 1], length=width)


class MidStream:
    """Hooks on resid_mid = resid_pre + attn_out, which no module holds: an edit of it is carried by attn_out."""

    def __init__(self, hooked: Callable[[Tensor], Tensor]) -> None:
        self.hooked = hooked
        self.entering: Tensor | None = None

    def remember(self, resid_pre: Tensor) -> Tensor:
        self.entering = resid_pre
        return resid_pre

    def shift(self, attn_out: Tensor) -> Tensor:
        assert self.entering is not None, "attention wrote before the layer began"
        mid = self.entering + attn_out
        edited = self.hooked(mid)
        if torch.is_grad_enabled():
            return edited - self.entering  # what was shown goes on, so that gradients reach it
        return attn_out if edited is mid else attn_out + (edited - mid)


def run_hooks(hooks: Sequence[HookFn], value: Tensor, context: HookContext, fired: Fired) -> Tensor:
    """The tensor after every hook, each seeing what the one before it returned.

    Raises:
        InterpError: E206 where a hook returns another shape (broadcasting would accept it without a word); E403 where
            it edits what can only be read.
    """
    for hook in hooks:
        new = hook(value, context)
        if new is None:
            continue
        if context.point.kind in READ_ONLY:
            raise InterpError(
                "E403",
                f"{context.name} can be read but not edited",
                where=context.name,
                fix="edit hook_resid_post of the last layer instead",
            )
        if new.shape != value.shape:
            raise InterpError(
                "E206",
                f"hook returned shape {tuple(new.shape)} for {tuple(value.shape)} ({context.point.axes})",
                where=context.name,
            )
        value = new.to(value.dtype)
    if context.start == 0 or context.is_decoding:
        fired[context.name] += 1
    return value
