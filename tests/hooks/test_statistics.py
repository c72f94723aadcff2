"""Statistics of a model's own attention, held against the patterns that it shows."""

from __future__ import annotations

import pytest
import torch

from interp.hooks.adapters.base import HookContext
from interp.hooks.model import HookedModel
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError

TEXT = ("gpt2", "llama", "gemma2", "gpt_oss", "bert", "gpt_neox")
"""Learned and rotary positions, grouped queries, softcap with sliding windows, sink logits, no causality."""


def opened(name: str) -> HookedModel:
    return HookedModel.from_hf(tiny_model(name))


IDS = [[5, 6, 7, 8, 9, 5, 6], [9, 8, 7]]


@pytest.mark.parametrize("name", TEXT)
def test_rows_and_columns_are_those_of_the_pattern_the_model_shows(name: str) -> None:
    model = opened(name)
    logits, found = model.run_with_statistics(IDS, ["entropy", "received"])
    plain, cache = model.run_with_cache(IDS, "*hook_pattern")
    real = found.batch.mask
    assert (logits - plain)[real].abs().max() <= 1e-4
    for layer in found:
        shown = cache["pattern", layer].double() * real[:, None, :, None]
        shown = shown / shown.sum(-1, keepdim=True).clamp(min=1e-30)
        entropy = torch.special.entr(shown).sum(-1)
        rows = real[:, None].expand_as(entropy)
        assert (found[layer]["entropy"] - entropy)[rows].abs().max() <= 1e-4
        assert found[layer]["entropy"][~rows].isnan().all()
        assert (found[layer]["received"] - shown.sum(2)).abs().max() <= 1e-4


def test_no_layer_is_handed_a_mask_of_its_squared_length() -> None:
    model = opened("llama")
    seen = []

    def look(z: torch.Tensor, context: HookContext) -> None:
        seen.append(context.call)

    model.run_with_hooks([[5, 6, 7, 8]], {"blocks.0.attn.hook_operator": look})
    assert [(call.mask, call.causal) for call in seen] == [(None, True)]


def test_vision_layers_and_layers_by_choice() -> None:
    model = opened("llava")
    _, found = model.run_with_statistics(model.adapter.probe_inputs, ["entropy"], layers=[1], tower="vision")
    _, cache = model.run_with_cache(model.adapter.probe_inputs, "*hook_pattern")
    assert list(found) == [1]
    entropy = torch.special.entr(cache["pattern", 1, "vision"].double()).sum(-1)
    assert (found[1]["entropy"] - entropy).abs().max() <= 1e-5


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(InterpError, match="E201"):
        opened("gpt2").run_with_statistics(IDS, ["entropie"])
    with pytest.raises(InterpError, match="E201"):
        opened("gpt2").run_with_statistics(IDS, ["entropy"], tower="vision")
    _, found = opened("gpt2").run_with_statistics(IDS, ["entropy"])
    with pytest.raises(InterpError, match="not asked"):
        found[0]["received"]
