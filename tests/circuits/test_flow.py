"""Graphs in models: what is written sums to the stream, readers are found, and an edit lands in its reader alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.circuits.graph.flow import MLP_IN, Flow
from interp.hooks.names import point_name
from interp.hooks.prompts import from_inputs
from interp.hooks.reads import Reads
from interp.kernels.errors import InterpError
from tests.cases.edges import HANDS, all_in, opened, prompts

FLOWING = (
    "gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "olmo2", "phi3", "gemma2", "gemma3", "mistral", "mixtral", "gpt_oss",
    "bloom", "falcon", "gptj",
)  # fmt: skip
PICTURES = ("vit", "clip", "siglip", "dinov2_with_registers")


@pytest.mark.parametrize("architecture", FLOWING)
def test_what_is_written_sums_to_the_stream(architecture: str) -> None:
    flow = Flow.of(opened(architecture))
    assert 0 <= flow.error < 1e-5
    batch = prompts(flow.model, (8, 8), 0)
    _, cache = flow.model.run_with_cache(batch, flow.points)
    assert flow.check(cache) < 1e-5
    total = torch.cat(list(flow.columns(flow.writes(cache))), 2).sum(2)
    left = cache[point_name("hook_resid_post", flow.n_layers - 1)] - total
    assert (left - left[:1, :1]).abs().max() < 2e-5 * total.abs().max(), "what no part wrote is the same everywhere"


@pytest.mark.parametrize("architecture", HANDS)
def test_writers_are_those_by_hand(architecture: str) -> None:
    flow = Flow.of(opened(architecture))
    batch = prompts(flow.model, (8, 8), 0)
    expected = all_in(HANDS[architecture](flow.model.adapter.model), batch)[1]  # type: ignore[attr-defined]
    found = torch.cat(list(flow.columns(flow.record(batch))), 2)
    assert [part.label for part in flow.graph.writers] == list(expected)
    for index, label in enumerate(expected):
        assert (found[:, :, index] - expected[label]).abs().max() < 1e-5 * max(1.0, float(expected[label].abs().max()))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_laid_out_is_the_same_writer_by_writer(architecture: str) -> None:
    flow = Flow.of(opened(architecture))
    writes = flow.record(prompts(flow.model, (8, 8), 0))
    expected = torch.cat(list(flow.columns(writes, slice(2, 7))), 2).permute(2, 0, 1, 3)
    found = torch.full(expected.shape, torch.nan)
    flow.laid_out(writes, slice(2, 7), found)
    assert torch.allclose(found, expected, atol=1e-6)


def test_tokens_and_positions_are_two_writers_or_one() -> None:
    model = opened("gpt2")
    split, joint = Flow.of(model), Flow.of(model, embeddings="joint")
    assert [len(flow.graph.writers) for flow in (split, joint)] == [12, 11]
    batch = prompts(model, (8,), 0)
    apart, together = split.record(batch).embed, joint.record(batch).embed
    assert torch.allclose(apart["embed"] + apart["pos_embed"], together["embed"], atol=1e-6)
    wpe = model.adapter.model.transformer.wpe.weight[:8]  # type: ignore[attr-defined]
    assert (apart["pos_embed"][0] - wpe).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", PICTURES)
def test_encoders_of_pictures_and_their_texts(architecture: str) -> None:
    flow = Flow.of(opened(architecture))
    batch = from_inputs(flow.model.adapter.probe_inputs)
    _, cache = flow.model.run_with_cache(batch, flow.points)
    assert flow.check(cache) < 1e-5
    record, expected = flow.record(batch), flow.writes(cache)
    assert all(torch.allclose(value, expected.heads[layer], atol=1e-5) for layer, value in record.heads.items())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "olmo2"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_layer_that_fails_is_named(architecture: str, layer: int) -> None:
    """A module that writes beside the parts: its layer's last stream is not what was written."""
    from interp.hooks.architectures import sharp_model
    from interp.hooks.model import HookedModel

    hf: Any = sharp_model(architecture, **{"num_hidden_layers" if architecture != "gpt2" else "n_layer": 3})
    blocks = hf.transformer.h if architecture == "gpt2" else hf.model.layers

    def more(_: Any, args: Any, output: Any) -> Any:
        return output + 0.05 if isinstance(output, Tensor) else (output[0] + 0.05, *output[1:])

    blocks[layer].register_forward_hook(more)
    with pytest.raises(InterpError, match=f"the stream that enters layer {layer + 1}") as caught:
        Flow.of(HookedModel.from_hf(hf))
    assert caught.value.code == "E403"


def test_heads_that_do_not_make_up_their_layer_are_named() -> None:
    flow = Flow.of(opened("gpt2"))
    _, cache = flow.model.run_with_cache(prompts(flow.model, (8,), 0), flow.points)
    cache._tensors["blocks.1.attn.hook_z"] = cache["blocks.1.attn.hook_z"] * 1.1
    with pytest.raises(InterpError, match="the attention of layer 1"):
        flow.check(cache)


@pytest.mark.parametrize("architecture", FLOWING)
def test_inlets_reproduce_queries_keys_and_values(architecture: str) -> None:
    model = opened(architecture)
    for layer in range(model.n_layers):
        reads = Reads.of(model, layer)
        kinds = [f"attn.hook_{part}" for part in "qkv"]
        names = [point_name(kind, layer) for kind in ("hook_resid_pre", *kinds)]
        _, cache = model.run_with_cache(prompts(model, (8, 8), 0), names)
        with torch.no_grad():
            normed = reads.normed(cache[names[0]])
        for part, name in zip("qkv", names[1:], strict=True):
            bias = reads.biases[part]
            made = torch.einsum("bpm,hmd->bphd", normed, reads.weights[part]) + (0 if bias is None else bias)
            assert (made - cache[name]).abs().max() < 1e-5 * max(1.0, float(made.abs().max()))


@pytest.mark.parametrize("architecture", FLOWING)
def test_what_an_mlp_reads_is_edited_for_it_alone(architecture: str) -> None:
    """In parallel blocks with one norm (GPT-J, Falcon) heads and MLP share what the norm gives."""
    model = opened(architecture)
    batch, layer = prompts(model, (8, 8), 0), 1
    seen = [point_name(kind, layer) for kind in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")]

    def run(edit: Any) -> tuple[Tensor, dict[str, Tensor]]:
        kept: dict[str, Tensor] = {}

        def keep(value: Tensor, context: Any) -> None:
            kept[context.name] = value.clone()

        hooks = {name: [keep] for name in seen} | {point_name(MLP_IN, layer): [edit]}
        return model.run_with_hooks(batch, hooks), kept

    plain, before = run(lambda value, _: None)
    same, _ = run(lambda value, _: value.clone())
    edited, after = run(lambda value, _: value + torch.linspace(-1, 1, value.shape[-1]))
    assert (same - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert all(torch.equal(before[name], after[name]) for name in seen[:2])
    assert (before[seen[2]] - after[seen[2]]).abs().max() > 1e-2
    assert (edited - plain).abs().max() > 1e-3
