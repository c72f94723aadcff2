"""Attention transfer: the patterns of another model, put in place of this one's, head by head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.names import point_name
from interp.hooks.prompts import Prompts, tokenizer_digest
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

PATTERN = "attn.hook_pattern"


def attention_transfer(model: HookedModel, other: HookedModel, prompts: Prompts, **options: Any) -> Reference:
    """Patterns of another model on these prompts, as values that this model can be patched with.

    Apply them with `Patch(point="pattern", source=attention_transfer(...), heads="all")` on a batch of the same prompts
    with the same options. Head h of layer l gets the pattern of head h of layer l; how many key/value heads stand behind
    the query heads does not matter. Both models read the same tokens at the same positions.

    Args:
        model: that gets the patterns.
        other: that gives them.
        prompts, options: see `HookedModel.batch`; read with the tokenizer of `model`.

    Returns:
        Values [batch head query_pos key_pos] by hook name, row by row the prompts.

    Raises:
        InterpError: E312 different tokenizers; E206 different numbers of layers or heads; E403 a model that does not
            expose its patterns; E205 the other model looks at keys that this one hides (later tokens, or tokens beyond a
            window).
    """
    check_tokenizers(model, other)
    if model.heads[""] != other.heads[""]:
        raise InterpError(
            "E206",
            f"{model.name} has {_shape(model)} and {other.name} {_shape(other)}: heads do not map to heads",
            fix="use a model of the same shape",
        )
    names = [point_name(PATTERN, layer) for layer, n in enumerate(model.heads[""]) if n]
    for name in names:
        model.check_point(name)
        other.check_point(name)
    batch = model.batch(prompts, **options)
    _, cache = other.run_with_cache(batch, names)
    for name, allowed in visible_keys(model, batch, names).items():
        _check_visible(model, other, name, batch, cache[name], allowed.to(cache[name].device))
    return Reference({name: cache[name] for name in names}, f"attention of {other.name}", paired=True)


def check_tokenizers(model: HookedModel, other: HookedModel) -> None:
    """Raise E312 where both models have a tokenizer and these differ."""
    if model.tokenizer is None or other.tokenizer is None:
        return
    if tokenizer_digest(model.tokenizer) != tokenizer_digest(other.tokenizer):
        raise InterpError(
            "E312",
            f"{model.name} and {other.name} cut text into different tokens, so positions do not map to positions",
            fix="use models that share a tokenizer, or open both without one and pass token ids",
        )


def visible_keys(model: HookedModel, batch: Batch, names: list[str]) -> Mapping[str, Bool[Tensor, ...]]:
    """Which keys each query may see, by hook name; layers that hide nothing are left out."""
    found: dict[str, Tensor] = {}

    def note(_: Tensor, context: HookContext) -> None:
        if context.allowed is not None:
            found[context.name] = context.allowed

    model.run_with_hooks(batch, dict.fromkeys(names, note))
    return found


def _check_visible(
    model: HookedModel,
    other: HookedModel,
    name: str,
    batch: Batch,
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    allowed: Bool[Tensor, ...],
) -> None:
    """Raise E205 where a real token looks, in the other model, at what this model hides from it."""
    real = torch.ones(pattern.shape[0], pattern.shape[2], dtype=torch.bool) if batch.mask is None else batch.mask
    hidden = (pattern * ~allowed * real.to(pattern.device)[:, None, :, None]).sum(-1)
    worst = float(hidden.max())
    if worst > 1e-6:
        raise InterpError(
            "E205",
            f"{other.name} puts {worst:.3g} of a token's attention on keys that {model.name} hides from it",
            where=name,
            fix="shorten the prompts to the smaller window, or use a model with the same mask",
        )


def _shape(model: HookedModel) -> str:
    """`4 layers of 8 heads`."""
    counts = sorted(set(model.heads[""]))
    return f"{model.n_layers} layers of {' or '.join(map(str, counts))} heads"
