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
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from interp.hooks.names import SQUARE
from interp.kernels.backends.eager import attention_pattern, attention_scores, repeat_kv, z_from_pattern
from interp.kernels.errors import InterpError

NAME = "interp"

Fire = Callable[..., Tensor]


class AttentionSite:
    """One attention module: what is hooked there, and how many tokens of this forward it has seen.

    Vision models that attend window by window call us once a window; `seen` is the position of the window's first
    token and `length` the number of tokens of all windows, so that the pieces join into one view of the layer.
    `instead` is what runs in place of attention where a forward is taken over, see `interp.hooks.rerun.restart`.
    """

    def __init__(self, native: str) -> None:
        self.native = native
        self.instead: Callable[..., tuple[Tensor, Tensor | None]] | None = None
        self.kinds: frozenset[str] = frozenset()
        self.fire: Fire | None = None
        self.seen = 0
        self.length = 0
        self.calls = 0
        self.heads = (0, 0)

    def clear(self) -> None:
        self.kinds, self.fire = frozenset(), None

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
    if site.kinds & SQUARE or is_written_out(site, kwargs):
        return _plain(site, query, key, value, attention_mask, scaling, window, kwargs)
    return AttentionInterface._global_mapping["sdpa"](
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


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


@contextmanager
def registered(configs: Iterable[Any]) -> Iterator[None]:
    """Models with these configurations call `attend` inside the block, and what they called before after it."""
    before = [(config, config._attn_implementation_internal) for config in configs]
    try:
        for config, _ in before:
            config._attn_implementation_internal = NAME
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name
