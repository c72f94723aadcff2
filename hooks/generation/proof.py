"""Whether a model writes from left to right, and whether its cache gives the logits of whole texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp.hooks.adapters.base import Adapter
from interp.hooks.generation.texts import Texts, texts_of
from interp.hooks.probe import TOLERANCE
from interp.hooks.prompts import from_inputs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

STEPS = 2


@dataclass(frozen=True)
class CacheProof:
    """Cached against whole forwards on the probe input, whose last tokens are fed one by one.

    Attributes:
        difference: largest difference of the logits; None where there is no cache.
        why_not: why whole texts are run; '' where the cache is used.
    """

    difference: float | None
    why_not: str


PROOFS: WeakKeyDictionary[Adapter, CacheProof] = WeakKeyDictionary()


@torch.no_grad()
def prove(model: HookedModel) -> CacheProof:
    """The proof of this model, made at its first text.

    Raises:
        InterpError: E407 a model that does not write text, or whose earlier tokens see later ones.
    """
    if model.adapter not in PROOFS:
        PROOFS[model.adapter] = _prove(model)
    return PROOFS[model.adapter]


def _prove(model: HookedModel) -> CacheProof:
    adapter = model.adapter
    batch = from_inputs(adapter.probe_inputs)
    if adapter.output_name != "logits" or "input_ids" not in batch.inputs or adapter.answers_at_mask:
        raise InterpError("E407", f"{model.name} does not write text", fix="open a causal language model")
    whole = adapter.plain_forward(batch.inputs)
    if whole.ndim != 3 or whole.shape[1] != batch.input_ids.shape[1]:
        raise InterpError("E407", f"{model.name} has no logits at every token", fix="open a causal language model")
    allowed = TOLERANCE[model.dtype] * max(1.0, float(whole.abs().max()))
    early = adapter.plain_forward(_cut(model).batch(0).inputs)[:, -1]
    if not float((early - whole[:, -STEPS - 1]).abs().max()) <= allowed:
        raise InterpError(
            "E407",
            f"{model.name} lets earlier tokens see later ones, so it cannot write one after the other",
            fix="open a causal language model",
        )
    return _compared(model, whole, allowed)


def _compared(model: HookedModel, whole: Tensor, allowed: float) -> CacheProof:
    cache: Any = model.adapter.new_cache()
    if cache is None:
        return CacheProof(None, "this kind of model has no cache that edits can act on")
    texts, start, difference = _cut(model), 0, 0.0
    for index, wanted in enumerate(whole[:, -STEPS - 1 :].unbind(1)):
        if index:
            start = texts.width
            texts.written.append(model.adapter.probe_inputs["input_ids"][:, index - STEPS - 1])
        logits = model.adapter.cached_forward(texts.step_inputs(texts.batch(start)), cache)[:, -1]
        difference = max(difference, float((logits - wanted).abs().max()))
    said = "" if difference <= allowed else f"this model's cache changes its logits by {difference:.2g}"
    return CacheProof(difference, said)


def _cut(model: HookedModel) -> Texts:
    """The probe input without its last tokens."""
    inputs = model.adapter.probe_inputs
    n = inputs["input_ids"].shape[1]
    short = {
        name: value[:, : n - STEPS] if value.ndim == 2 and value.shape[1] == n else value
        for name, value in inputs.items()
    }
    return texts_of(from_inputs(short), False, cached=True)
