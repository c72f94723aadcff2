"""The one attention function we register with transformers, and the sites where models call it.

Function and mask are registered under the same name: with the mask missing, transformers drops causal, sliding-window
and padding structure without a word. Which arithmetic a layer runs is chosen at each call: the plain one where scores
or pattern are read or edited, the model's own fast one everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from interp.hooks.adapters.base import AttentionCall
from interp.hooks.names import SQUARE
from interp.kernels.backends.eager import attention_pattern, attention_scores, repeat_kv, z_from_pattern
from interp.kernels.errors import InterpError

NAME = "interp"
MASKLESS = "interp_maskless"
OPERATOR = "attn.hook_operator"

Fire = Callable[..., Tensor]


class AttentionSite:
    """One attention module: what is hooked there, and how many tokens of this forward it has seen.

    Vision models that attend window by window call us once a window; `seen` is the position of the window's first
    token and `length` the number of tokens of all windows, so that the pieces join into one view of the layer.
    `is_maskless` says that masks are those of SDPA, which are left out where they would say causality alone.
    `replaced` are the heads whose z hooks on the operator compute anew; if all are, the model's own attention need not
    run.
    `instead` is what runs in place of attention where a forward is taken over, see `interp.hooks.rerun.restart`.
    """

    def __init__(self, native: str) -> None:
        self.native = native
        self.instead: Callable[..., tuple[Tensor, Tensor | None]] | None = None
        self.kinds: frozenset[str] = frozenset()
        self.replaced: frozenset[int] = frozenset()
        self.is_maskless = False
        self.fire: Fire | None = None
        self.seen = 0
        self.length = 0
        self.calls = 0
        self.heads = (0, 0)

    def clear(self) -> None:
        self.kinds, self.fire, self.replaced = frozenset(), None, frozenset()

    @property
    def is_repeated(self) -> bool:
        """In the forward that ran last, the attention calls held more tokens than the layer has."""
        return self.seen > self.length

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the module: its first tensor holds the tokens of all windows."""
        self.length = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)).shape[-2]


SITES: WeakKeyDictionary[nn.Module, AttentionSite] = WeakKeyDictionary()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers asks for it: query [batch head pos d_head], key and value [batch kv_head pos d_head].

    Returns:
        z [batch pos head d_head] and the pattern where it was computed.
    """
    site = SITES.get(module)
    if site is None:
        raise InterpError(
            "E403",
            f"{type(module).__name__} uses attention {NAME!r} but belongs to no HookedModel",
            fix="open it with interp.load or HookedModel.from_hf",
        )
    if site.instead is not None:
        return site.instead(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    return compute(site, module, query, key, value, attention_mask, scaling, dropout, **kwargs)


def compute(
    site: AttentionSite,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention of a site, with the hooks that are attached there."""
    window = (site.seen, site.length)
    site.seen, site.calls = site.seen + query.shape[2], site.calls + 1
    site.heads = (query.shape[1], key.shape[1])
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if site.fire is not None:
        query, key, value = (_fire_heads(site, kind, x, window) for kind, x in (("q", query), ("k", key), ("v", value)))
    if OPERATOR in site.kinds:
        causal = site.is_maskless and attention_mask is None and key.shape[2] > 1 and is_causal(module, kwargs)
        call = AttentionCall(query, key, value, attention_mask, causal, scaling, kwargs)
        return _operated(site, module, call, window, dropout)
    return _model_own(site, module, query, key, value, attention_mask, scaling, window, dropout, kwargs)


def _operated(
    site: AttentionSite, module: nn.Module, call: AttentionCall, window: tuple[int, int], dropout: float
) -> tuple[Tensor, None]:
    """z by the model's own attention where a hook leaves any of it, and by what the hooks put in its place."""
    if site.replaced and site.kinds & SQUARE:
        raise InterpError(
            "E403",
            "scores or pattern are hooked in a layer where heads run another operator",
            fix="read what an operator attends to with interp.kernels.pattern, or hook them in separate forwards",
        )
    assert site.fire is not None
    if len(site.replaced) == call.q.shape[1]:
        z = call.v.new_zeros(*call.q.shape[:3], call.v.shape[-1]).transpose(1, 2)
    else:
        z, _ = _model_own(
            site, module, call.q, call.k, call.v, call.mask, call.scaling, window, dropout, dict(call.options)
        )
    return site.fire(OPERATOR, z, *window, None, call), None


def _model_own(
    site: AttentionSite,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    window: tuple[int, int],
    dropout: float,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """The model's own attention: written out where the map is wanted or nothing else will do, else the fast one."""
    if site.kinds & SQUARE or is_written_out(site, kwargs):
        if site.is_maskless:
            attention_mask = _added_mask(module, query, key, attention_mask, kwargs)
        return _plain(site, query, key, value, attention_mask, scaling, window, kwargs)
    return AttentionInterface._global_mapping["sdpa"](
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def is_causal(module: nn.Module, options: Mapping[str, Any]) -> bool:
    """Whether a call without a mask hides later keys, by the rule of transformers' SDPA function."""
    said = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if said is None else said)


def _added_mask(
    module: nn.Module, q: Tensor, k: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> Tensor | None:
    """A mask to be added to scores, from one that was made for SDPA."""
    if mask is None and q.shape[2] > 1 and is_causal(module, options):
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, torch.finfo(q.dtype).min)


def is_written_out(site: AttentionSite, options: Mapping[str, Any]) -> bool:
    """Whether the plain arithmetic is the only one that gives what this layer asks for, or its own."""
    return site.native == "eager" or any(options.get(name) is not None for name in ("softcap", "s_aux", "normaliser"))


def _fire_heads(site: AttentionSite, which: str, x: Tensor, window: tuple[int, int]) -> Tensor:
    """Run the hooks on q, k or v, shown with the axes of the hook points (batch pos head d_head)."""
    kind = f"attn.registry_{which}"
    if kind not in site.kinds:
        return x
    assert site.fire is not None
    return site.fire(kind, x.transpose(1, 2), *window).transpose(1, 2)


def _plain(
    site: AttentionSite,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float,
    window: tuple[int, int],
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    n_rep = q.shape[1] // k.shape[1]
    scores = attention_scores(
        q, repeat_kv(k, n_rep), scaling, mask=mask, softcap=kwargs.get("softcap"), bias=kwargs.get("position_bias")
    )
    allowed = None if mask is None else mask > torch.finfo(mask.dtype).min / 2
    if "attn.hook_attn_scores" in site.kinds:
        assert site.fire is not None
        scores = site.fire("attn.hook_attn_scores", scores, *window, allowed)
    pattern = attention_pattern(scores, sink=kwargs.get("s_aux"), normaliser=kwargs.get("normaliser", "softmax"))
    if "attn.hook_pattern" in site.kinds:
        assert site.fire is not None
        pattern = site.fire("attn.hook_pattern", pattern, *window, allowed)
    return z_from_pattern(pattern, repeat_kv(v, n_rep)), pattern


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
AttentionInterface.register(MASKLESS, attend)
AttentionMaskInterface.register(MASKLESS, sdpa_mask)


@contextmanager
def registered(configs: Iterable[Any], name: str = NAME) -> Iterator[None]:
    """Models with these configurations call `attend` inside the block, and what they called before after it."""
    before = [(config, config._attn_implementation_internal) for config in configs]
    try:
        for config, _ in before:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, own in before:
            config._attn_implementation_internal = own
