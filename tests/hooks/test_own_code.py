"""Queries, keys and values of models that compute attention in their own code: found by edits, and only where they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks.adapters import own_code
from interp.hooks.adapters.own_code import proven_by_edits
from interp.hooks.adapters.projections import candidates
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError

IDS = torch.randint(3, 100, (2, 7), generator=torch.Generator().manual_seed(1))
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("bloom", {}, "grouped"),
    "gptj": ("gptj", {}, "separate"),
    "falcon": ("falcon", {}, "concatenated"),
    "falcon, a key for each head": ("falcon", {"multi_query": False}, "grouped"),
    "falcon, grouped keys": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, "grouped"),
}


def split(attn: Any, given: Tensor) -> list[Tensor]:
    """Queries, keys and values [batch pos head d_head] as the model's own code takes them apart."""
    kind = type(attn).__name__
    if kind == "GPTJAttention":
        return [
            module(given).unflatten(-1, (attn.num_attention_heads, -1))
            for module in (attn.q_proj, attn.k_proj, attn.v_proj)
        ]
    fused = attn.query_key_value(given)
    if kind == "BloomAttention":
        return [part.transpose(1, 2) for part in attn._reshape(fused)]
    return list(attn._split_heads(fused))


@pytest.mark.parametrize("name", MODELS)
def test_points_hold_what_the_models_own_code_makes(name: str, hooked: Callable[..., Any]) -> None:
    architecture, options, layout = MODELS[name]
    model = hooked(architecture, **options)
    for layer in range(2):
        attn, reading = model.adapter.block(layer).attn, model.adapter.projections["", layer]
        assert {one.layout for one in reading.values()} == {layout}
        given: list[Tensor] = []
        handle = attn.register_forward_pre_hook(
            lambda _, args, kwargs, given=given: given.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        kinds = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
        _, cache = model.run_with_cache(IDS, [point_name(kind, layer) for kind in kinds])
        handle.remove()
        with torch.no_grad():
            expected = split(attn, given[0])
        groups = model.heads[""][layer] // model.kv_heads[""][layer]
        for part, own in zip(kinds, expected, strict=True):
            found = cache[point_name(part, layer)]
            if part != "attn.hook_q" and own.shape[2] == model.heads[""][layer]:
                found = found.repeat_interleave(groups, 2)
            assert torch.equal(found, own), part


@pytest.mark.parametrize("name", MODELS)
def test_edits_land_in_their_head(name: str, hooked: Callable[..., Any]) -> None:
    architecture, options, _ = MODELS[name]
    model = hooked(architecture, **options)
    z = point_name("attn.hook_z", 1)
    _, cache = model.run_with_cache(IDS, z)
    groups = model.heads[""][1] // model.kv_heads[""][1]
    for part in "qkv":
        head = model.kv_heads[""][1] - 1 if part != "q" else 2

        def edit(value: Tensor, _: Any, head: int = head) -> Tensor:
            value = value.clone()
            value[:, 3, head] += 2
            return value

        seen: dict[str, Tensor] = {}
        model.run_with_hooks(
            IDS, {point_name(f"attn.hook_{part}", 1): edit, z: lambda x, _, seen=seen: seen.update(z=x.clone())}
        )
        moved = (seen["z"] - cache[z]).abs().amax((0, 3)) > 1e-4
        readers = [2] if part == "q" else list(range(head * groups, (head + 1) * groups))
        assert moved.any(0).nonzero()[:, 0].tolist() == readers
        assert moved.any(1).nonzero()[:, 0].tolist() == ([3] if part == "q" else [3, 4, 5, 6])


@pytest.mark.parametrize("name", ["bloom", "gptj", "falcon, a key for each head"])
@pytest.mark.parametrize("order", ["kqv", "qvk", "vkq", "head"])
def test_wrong_readings_are_not_proven(
    name: str, order: str, hooked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, options, layout = MODELS[name]
    adapter = hooked(architecture, **options).adapter
    blocks = {("", layer): adapter.block(layer) for layer in range(2)}

    def forward() -> object:
        return adapter.plain_forward(adapter.probe_inputs)

    assert set(proven_by_edits(blocks, forward)) == set(blocks)

    def wrong(block: Any) -> list[dict[str, Any]]:
        right = next(one for one in candidates(block) if one["q"].layout == layout)
        if order == "head":  # half a head further, where the layout allows it
            return [{part: replace(one, n_heads=2, n_kv_heads=2, d_head=32) for part, one in right.items()}]
        return [{part: replace(right[other], which=other) for part, other in zip("qkv", order, strict=True)}]

    monkeypatch.setattr(own_code, "candidates", wrong)
    assert proven_by_edits(blocks, forward) == {}


def test_what_does_not_exist_stays_refused(hooked: Callable[..., Any]) -> None:
    model = hooked("bloom")
    for kind in ("attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_rot_q", "attn.hook_operator"):
        with pytest.raises(InterpError, match="not available") as caught:
            model.check_point(point_name(kind, 0))
        assert caught.value.code == "E403" and "own code" in caught.value.fix


@pytest.mark.parametrize("name", ["falcon", "gptj", "gpt2"])
@pytest.mark.parametrize("kind", ["hook_mlp_out", "hook_attn_out"])
def test_a_write_that_a_hook_keeps_stays_as_it_was(name: str, kind: str, hooked: Callable[..., Any]) -> None:
    """Falcon adds what attention wrote to what its MLP gave in place."""
    model, point, kept = hooked(name), point_name(kind, 1), []

    def keep(value: Tensor, _: Any) -> None:
        kept.extend([value, value.clone()])

    plain = model.run_with_hooks(IDS, {point: keep})
    assert torch.equal(*kept)
    put = kept[1].clone()
    assert torch.equal(model.run_with_hooks(IDS, {point: lambda *_: put}), plain)
    assert torch.equal(put, kept[1])
