"""Heads that run another attention operator than the model's own."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.adapters.base import AttentionCall, HookContext, Operator
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.interventions import Hook, Intervention, by_layer
from interp.hooks.names import point_name
from interp.kernels.attention import AttentionOutput, attention
from interp.kernels.variants import variant as variant_of
from interp.kernels.variants.base import Variant

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True)
class Swap(Intervention):
    """Let heads attend by another operator.

    What a layer's mask hides stays hidden, and the operator is causal where the layer is. The model's own softcap, sink
    logits and score bias stay in force for operators that have scores (and rows of a softmax, for the sinks).

    Args:
        heads: labels; `L3H*` and 'all' work too.
        variant: an operator of `interp.kernels.variants`, or its name.
        backend: of `interp.kernels.attention`.

    Raises:
        InterpError: E201 unknown operator. When it runs: what `attention` raises; E403 where the layer's scores or
            pattern are hooked too.
    """

    heads: Any
    variant: str | Variant
    backend: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variant", variant_of(self.variant))

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        assert isinstance(self.variant, Variant)
        return [
            (point_name(OPERATOR, layer, tower), Swapped(heads, self.variant, self.backend))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]

    def to_dict(self) -> dict[str, Any]:
        assert isinstance(self.variant, Variant)
        return {**super().to_dict(), "variant": self.variant.describe()}


class Swapped(Operator):
    """Hook on `attn.hook_operator`: z of some heads by another operator."""

    def __init__(self, heads: list[int], variant: Variant, backend: str) -> None:
        self.heads, self.variant, self.backend = heads, variant, backend

    def __call__(self, value: Tensor, context: HookContext) -> Float[Tensor, "batch pos head d_head"]:
        call = context.call
        assert call is not None, f"{context.name} was not told what attention was called with"
        found = attended(call, self.variant, backend=self.backend, heads=self.heads)
        z = value.clone()
        z[:, :, self.heads] = found.output.transpose(1, 2)
        return z


def attended(call: AttentionCall, variant: Variant, **options: Any) -> AttentionOutput:
    """The attention that a layer asks for, by an operator that is fitted to it; options as `attention` takes them."""
    key_mask, mask, bias, causal = seen_by(call)
    return attention(
        call.q, call.k, call.v, fitted(variant, call, causal),
        scale=call.scaling, key_mask=key_mask, mask=mask, bias=bias, **options,
    )  # fmt: skip


def fitted(variant: Variant, call: AttentionCall, causal: bool) -> Variant:
    """The operator as this layer needs it, and those that it is made of: causal like the layer's mask, with its softcap
    and its sink logits."""
    known = {field.name for field in fields(variant)}
    own = {name: getattr(variant, name) for name in known}
    inner = {name: fitted(value, call, causal) for name, value in own.items() if isinstance(value, Variant)}
    given: dict[str, Any] = {"causal": causal, **inner}
    for name, option in (("softcap", "softcap"), ("sink", "s_aux")):
        if name in known and call.options.get(option) is not None and getattr(variant, name) is None:
            given[name] = call.options[option]
    return replace(variant, **given)


def seen_by(
    call: AttentionCall,
) -> tuple[
    Bool[Tensor, "batch key_pos"] | None,
    Bool[
        Tensor,
        (
            batch  # head query_pos key_pos
        ),
    ]
    | None,
    Tensor | None,
    bool,
]:
    """What a call's mask says, in the words of `attention`: key_mask, mask, bias, and whether it is causal.

    A mask that is causality and padding and no more is said by the first and the last, which fast backends understand.
    """
    bias = call.options.get("position_bias")
    if call.mask is None:
        return None, None, bias, call.causal
    allowed = call.mask if call.mask.dtype == torch.bool else call.mask > torch.finfo(call.mask.dtype).min / 2
    if call.mask.dtype != torch.bool and bool((call.mask.where(allowed, 0) != 0).any()):
        added = call.mask.where(allowed, 0)  # a bias that the model adds with its mask (ALiBi)
        bias = added if bias is None else bias + added
    allowed = allowed.expand(call.q.shape[0], -1, -1, -1)
    n_queries, n_keys = allowed.shape[-2:]
    past = torch.ones(n_queries, n_keys, dtype=torch.bool, device=allowed.device).tril(n_keys - n_queries)
    real = allowed.any(1).any(1)
    if n_queries <= n_keys:
        rows = real[:, None, n_keys - n_queries :, None]  # rows of padding hold whatever the model puts there
        allowed = allowed & rows
        causal = not bool((allowed & ~past).any())
        plain = real[:, None, None, :] & rows & (past if causal else True)
        if bool((plain == allowed).all()):
            return None if bool(real.all()) else real, None, bias, causal
    else:
        causal = False
    return None if bool(real.all()) else real, allowed, bias, causal
