"""Layers whose heads a norm joins, so that what one head computes changes what another one writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.circuits.readout import Norm
from interp.circuits.writes import PRE, Z
from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.batch import Batch
from interp.hooks.capture import Cache
from interp.hooks.names import point_name

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

TIMES = 30.0
"""What the first query and key head are multiplied by: where a norm spans heads, little is left of the others."""

SAME = 1e-6
"""Share of the largest z: a head that nothing joins to the first one gives the same bits."""


@torch.no_grad()
def joined_layers(
    model: HookedModel, norms: Mapping[int, Norm | None], batch: Batch, cache: Cache
) -> Mapping[int, bool]:
    """Layer -> whether a norm spans its heads: of what they write, or of their queries or keys, which one run shows.

    Args:
        norms: behind the heads of each layer.
        cache: of an untouched run of `batch`: what enters each layer, and z.
    """
    hooks: dict[str, list[HookFn]] = {}
    seen: dict[str, Tensor] = {}
    for layer in norms:
        hooks[point_name(PRE, layer)] = [partial(_put, cache[point_name(PRE, layer)])]
        for part in "qk" if model.kv_heads[""][layer] > 1 else "q":
            hooks[point_name(f"attn.hook_{part}", layer)] = [_enlarged]
        hooks[point_name(Z, layer)] = [partial(_keep, seen)]
    model.run_with_hooks(batch, hooks)
    found = {}
    for layer, norm in norms.items():
        name, others = point_name(Z, layer), _others(model.heads[""][layer], model.kv_heads[""][layer])
        spans = norm is not None and not norm.is_fixed
        found[layer] = bool(others) and (spans or _differ(cache[name][:, :, others], seen[name][:, :, others]))
    return found


def _others(heads: int, kv_heads: int) -> Sequence[int]:
    """Heads that read neither the first query nor the first of several keys."""
    return range(heads // kv_heads if kv_heads > 1 else 1, heads)


def _differ(before: Tensor, after: Tensor) -> bool:
    return bool((before - after).abs().max() > SAME * before.abs().max())


def _put(stream: Tensor, _: Tensor, __: HookContext) -> Tensor:
    """Every layer enters as it was, so that it shows its own edit alone."""
    return stream


def _enlarged(value: Tensor, _: HookContext) -> Tensor:
    value = value.clone()
    value[:, :, 0] *= TIMES
    return value


def _keep(seen: dict[str, Tensor], value: Tensor, context: HookContext) -> None:
    seen[context.name] = value.clone()
