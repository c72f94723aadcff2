"""The table of supported architectures: each one opened, read, edited, and held against two other implementations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.hooks.capture import Cache
from interp.hooks.interventions import Ablate
from interp.hooks.model import HookedModel
from interp.hooks.names import HeadId, PointId
from interp.hooks.tiny import TINY, tiny_model
from interp.kernels.errors import InterpError

SPREAD = 0.15
"""Standard deviation of every weight matrix: fresh models attend almost uniformly, and a wrong mask would look right."""

CERTIFICATE, PATTERN, EFFECT, TRANSFORMER_LENS = 1e-5, 1e-6, 1e-4, 1e-5
"""Bars: largest differences allowed, and the smallest effect of an edit that is clearly not rounding."""

UNREAD = {("llava", "vision"): (1,)}
"""Layers whose output nothing reads: LLaVA takes the image features from before its last vision layer."""

OTHER_NAMES: Mapping[str, Mapping[str, str | None]] = {
    "bert": {
        "hook_embed": "embed.hook_out",
        "hook_attn_out": "attn.o.hook_out",
        "hook_resid_mid": "ln1.hook_in",
        "attn.hook_attn_scores": None,
    },
    "vit": {"attn.hook_attn_scores": None},
    "bloom": {"hook_embed": "embed.hook_out"},
}
"""Where TransformerLens keeps the same quantity under another name; None where it keeps it nowhere."""

FOOTNOTE = """\
Tiny random models in float32. certificate: largest difference of the output with every hook in place; pattern: to the
attentions of transformers' eager code (Qwen2.5-VL vision: to a softmax of q and k window by window); pattern edit, z
edit: smallest change of the output when one head attends to itself alone, or is zeroed, over all heads; TransformerLens:
largest difference over the points that both have (how many); -: refused here, or no adapter there.
  bert   hook_attn_out, hook_resid_mid and hook_embed are what is added and its sum before the norm; in TransformerLens
         attn.o.hook_out, ln1.hook_in and embed.hook_out.
  bert, vit   TransformerLens' hook_attn_scores holds the pattern there: not compared.
  bloom  hook_embed is the embedding before its norm; in TransformerLens embed.hook_out.
  llava  the last vision layer is left out: the model takes its image features from the layer before.
  bloom, falcon, gptj   compute attention in their own code; scores and pattern are refused with E403.
  clip, siglip, dinov2   have no adapter in TransformerLens; vision-language models are never booted through it."""


@dataclass(frozen=True)
class Row:
    """What was measured on one tower of one architecture.

    Attributes:
        certificate: largest difference of the model's output, every hook in place against the untouched model.
        pattern: largest difference of a captured pattern to the reference; None where patterns are refused.
        pattern_edit, z_edit: smallest change of the output under an edit of one head, over all heads.
        transformer_lens: largest difference over `n_shared` hook points; None where there is no adapter.
    """

    architecture: str
    tower: str
    certificate: float
    pattern: float | None
    pattern_edit: float | None
    z_edit: float
    transformer_lens: float | None
    n_shared: int

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the bars that are not met."""
        largest = (("certificate", CERTIFICATE), ("pattern", PATTERN), ("transformer_lens", TRANSFORMER_LENS))
        above = [name for name, bar in largest if (value := getattr(self, name)) is not None and not value <= bar]
        effects = [(name, getattr(self, name)) for name in ("pattern_edit", "z_edit")]
        below = [name for name, value in effects if value is not None and not value >= EFFECT]
        refused = self.pattern is None or self.pattern_edit is None
        return (
            *above,
            *below,
            *(["pattern refused"] if refused and not TINY[self.architecture].bypasses_registry else []),
        )


def sharp_model(architecture: str, **overrides: Any) -> Any:
    """A tiny model whose attention is neither uniform nor one-hot."""
    model = tiny_model(architecture, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SPREAD / parameter.std())
    return model


@torch.no_grad()
def rows(architecture: str) -> list[Row]:
    """The rows of one architecture, one for each tower."""
    model = HookedModel.from_hf(sharp_model(architecture), name=architecture)
    clean, cache = model.run_with_cache(model.adapter.probe_inputs)
    attentions = {} if TINY[architecture].bypasses_registry else eager_attentions(architecture, cache)
    lens, n_shared = against_transformer_lens(model, cache)
    return [
        Row(
            architecture,
            tower,
            model.certificate.max_abs,
            pattern_difference(cache, tower, attentions[tower]) if attentions else None,
            smallest_effect(model, tower, "identity", clean) if attentions else None,
            smallest_effect(model, tower, "zero", clean),
            lens if not tower else None,
            n_shared if not tower else 0,
        )
        for tower in model.heads
    ]


def pattern_difference(cache: Cache, tower: str, attentions: tuple[Tensor, ...]) -> float:
    """Largest difference between captured patterns and these, layer by layer."""
    return max(float((cache["pattern", layer, tower] - own).abs().max()) for layer, own in enumerate(attentions))


def eager_attentions(architecture: str, cache: Cache) -> dict[str, tuple[Tensor, ...]]:
    """Attention of every layer as transformers' eager code returns it, from a model that was never hooked."""
    model = sharp_model(architecture, attn_implementation="eager")
    assert cache.batch is not None
    inputs = cache.batch.inputs
    output = model(**inputs, output_attentions=True)
    text = getattr(output, "text_model_output", output).attentions
    if "vision_model_output" in output:
        return {"": text, "vision": output.vision_model_output.attentions}
    if architecture == "qwen2_5_vl":
        return {"": text, "vision": tuple(window_patterns(model.config.vision_config, cache))}
    if hasattr(model.base_model, "vision_tower"):
        seen = model.base_model.vision_tower(pixel_values=inputs["pixel_values"], output_attentions=True)
        return {"": text, "vision": seen.attentions}
    return {"": text}


def window_patterns(config: Any, cache: Cache) -> Iterator[Tensor]:
    """softmax(q k^T / sqrt(d_head)) within windows of `window_size` pixels a side, from the captured q and k."""
    per_window = (config.window_size // config.patch_size) ** 2
    for layer in range(config.depth):
        q, k = (cache[name, layer, "vision"].transpose(1, 2) for name in ("rot_q", "rot_k"))
        n = q.shape[2]
        window = torch.arange(n) // (n if layer in config.fullatt_block_indexes else per_window)
        outside = window[:, None] != window[None, :]
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
        yield scores.masked_fill(outside, float("-inf")).softmax(-1)


def smallest_effect(model: HookedModel, tower: str, operator: str, clean: Tensor) -> float:
    """Smallest change of the output when one head is ablated, over the heads of the layers that something reads."""
    unread = UNREAD.get((model.name, tower), ())
    layers = [(layer, n) for layer, n in enumerate(model.heads[tower]) if layer not in unread]
    return min(
        effect(model, Ablate(HeadId(tower, layer, head), operator), clean) for layer, n in layers for head in range(n)
    )


def effect(model: HookedModel, edit: Ablate, clean: Tensor) -> float:
    """Largest change of the output on the probe input."""
    with model.edit(edit):
        return float((model(model.adapter.probe_inputs) - clean).abs().max())


def against_transformer_lens(model: HookedModel, cache: Cache) -> tuple[float | None, int]:
    """Largest difference to the cache of a TransformerLens bridge over a copy, and how many points both have."""
    try:
        bridge = model.to_transformer_lens()
    except InterpError as refusal:
        if refusal.code != "E403":
            raise
        return None, 0
    inputs = model.adapter.probe_inputs
    _, theirs = bridge.run_with_cache(inputs["input_ids"] if "input_ids" in inputs else inputs["pixel_values"])
    names = {name: lens_name(model.name, model.adapter.available[name]) for name in cache}
    shared = {name: other for name, other in names.items() if other is not None and other in theirs}
    return max(distance(cache[name], theirs[other]) for name, other in shared.items()), len(shared)


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference; 0 where both are the same infinity. Tensors of different shape are infinitely far apart."""
    return float((a - b).masked_fill(a == b, 0).abs().max()) if a.shape == b.shape else float("inf")


def lens_name(architecture: str, point: PointId) -> str | None:
    """Where TransformerLens has this quantity."""
    kind = OTHER_NAMES.get(architecture, {}).get(point.kind, point.kind)
    return None if kind is None else PointId(point.tower, kind, point.layer).name
