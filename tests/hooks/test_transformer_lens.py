"""TransformerLens as a neighbour: its bridges opened here, our models and caches used there."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import boot_native, build_bridge_from_module

from interp.hooks.architectures import sharp_model
from interp.hooks.interventions import Ablate, Intervention, Knockout, Patch, Redistribute, Scale, Steer
from interp.hooks.model import HookedModel
from interp.hooks.names import HeadId
from interp.hooks.probe import canary
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError

IDS = torch.randint(3, 128, (3, 7), generator=torch.Generator().manual_seed(4))
NATIVE = dict(
    d_model=32, d_head=8, n_heads=4, n_layers=2, n_ctx=32, d_vocab=128, act_fn="gelu", normalization_type="LN", seed=0
)


def booted(name: str) -> Any:
    hf = sharp_model(name, attn_implementation="eager")
    return build_bridge_from_module(
        hf, type(hf).__name__, hf_config=hf.config, tokenizer=None, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request: pytest.FixtureRequest, hooked: Any) -> tuple[HookedModel, HookedModel]:
    """One model opened as it is, and the same weights through a TransformerLens bridge."""
    return hooked(request.param), HookedModel.from_transformer_lens(booted(request.param), name=request.param)


@pytest.fixture(scope="module")
def native() -> Any:
    bridge = boot_native(NATIVE).eval()
    with torch.no_grad():
        for parameter in bridge.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3 / parameter.std())
    return bridge


def hooks_on(bridge: Any) -> int:
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in bridge.hook_dict.values())


def test_both_ways_to_the_same_model_read_the_same_values(pair: tuple[HookedModel, HookedModel]) -> None:
    ours, theirs = pair
    logits, cache = ours.run_with_cache(IDS, ["*", "*hook_result"])
    bridged, other = theirs.run_with_cache(IDS, ["*", "*hook_result"])
    torch.testing.assert_close(logits, bridged, atol=1e-5, rtol=0)
    assert set(other) == set(cache)
    for name, value in cache.items():
        finite = value.abs() < 1e30
        torch.testing.assert_close(value[finite], other[name][finite], atol=1e-5, rtol=0, msg=name)
    assert ours.heads == theirs.heads and ours.kv_heads == theirs.kv_heads
    assert theirs.certificate.max_abs == 0 and theirs.describe()["model_type"] == "transformer_lens"


def edits(cache: Any) -> dict[str, Intervention]:
    other = Reference(cache, "other prompts")
    vector = Reference({"blocks.1.hook_resid_pre": torch.linspace(-1, 1, 64)})
    made = {
        "zero": Ablate(["L0H1", "L1H2"]),
        "zero at the end": Ablate("L0H1", positions="end"),
        "scale": Scale("L1H*", -2.0),
        "resample": Ablate("L0H3", "resample", other),
        "uniform": Ablate("L0H1", "uniform"),
        "identity": Ablate("L1H1", "identity", positions=(2, 3)),
        "to-sink": Ablate("L0H*", "to-sink"),
        "knockout": Knockout("L1H0", queries=(4, 5), keys=(1, 2)),
        "redistribute": Redistribute("L0H2", take=(0,), share=0.7),
        "steer": Steer(1, vector, 2.0),
    }
    for point in ("z", "q", "rot_q", "pattern"):
        made[f"patch {point}"] = Patch(point, other, heads="L0H2")
    for point in ("k", "v", "rot_k"):
        made[f"patch {point}"] = Patch(point, other, kv_heads="L0H1")
    for point in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        made[f"patch {point}"] = Patch(point, other, layers=(1,), positions=(1, 5))
    return made


@pytest.mark.parametrize("name", edits({}))
def test_edits_are_the_same_on_both_ways(pair: tuple[HookedModel, HookedModel], name: str) -> None:
    ours, theirs = pair
    prompts = [IDS[0].tolist(), IDS[1, :5].tolist(), IDS[2, :6].tolist()]
    _, cache = ours.run_with_cache([row[::-1] for row in prompts], "*")
    if "rot" in name and "blocks.0.attn.hook_rot_q" in ours.adapter.refused:
        assert "blocks.0.attn.hook_rot_q" in theirs.adapter.refused
        return
    edit = edits(cache)[name]
    with ours.edit(edit), theirs.edit(edit):
        one, two = ours(prompts), theirs(prompts)
    real = ours.batch(prompts).mask
    torch.testing.assert_close(one[real], two[real], atol=2e-5, rtol=0)
    assert float((one - ours(prompts))[real].abs().max()) > 1e-3
    assert hooks_on(theirs.adapter.bridge) == 0


@pytest.mark.parametrize("point", ["z", "pattern", "attn_scores"])
def test_the_canary_passes_on_a_bridge(pair: tuple[HookedModel, HookedModel], point: str) -> None:
    _, theirs = pair
    rows = canary(theirs, point, [HeadId("", 0, 0), HeadId("", 1, 0)], theirs.batch(IDS))
    assert all(row.identity < 1e-5 and row.large > 1e-2 for row in rows)


def test_a_bridge_is_left_as_it_was(pair: tuple[HookedModel, HookedModel]) -> None:
    _, theirs = pair
    bridge = theirs.adapter.bridge
    clean = bridge(IDS, return_type="logits")

    def explode(*_: Any) -> Tensor:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), theirs.edit(Ablate("L0H0")):
        theirs.run_with_hooks(IDS, {"blocks.1.attn.hook_pattern": explode})
    assert hooks_on(bridge) == 0 and torch.equal(bridge(IDS, return_type="logits"), clean)
    with theirs.edit(Ablate("L0H0")):
        assert torch.equal(bridge(IDS, return_type="logits"), clean)
        assert torch.equal(theirs.run_plain(IDS), clean)


def test_left_padding_is_refused_on_a_bridge(pair: tuple[HookedModel, HookedModel]) -> None:
    _, theirs = pair
    with pytest.raises(InterpError, match="E205"):
        theirs.batch([[5, 6, 7], [8]], padding_side="left")


def test_a_bridge_in_training_mode_is_refused() -> None:
    bridge = boot_native(NATIVE)
    assert bridge.training
    with pytest.raises(InterpError, match="E205"):
        HookedModel.from_transformer_lens(bridge)
    assert bridge.training


def test_pattern_points_are_refused_where_the_bridge_drops_edits() -> None:
    """TransformerLens only warns there, and the output does not change."""
    bridge = booted("bert")
    point = "blocks.0.attn.hook_pattern"
    clean = bridge(IDS, return_type="logits")
    with warnings.catch_warnings(record=True) as said, bridge.hooks(fwd_hooks=[(point, lambda p, hook: 0 * p)]):
        warnings.simplefilter("always")
        assert torch.equal(bridge(IDS, return_type="logits"), clean)
    assert any("discarded" in str(warning.message) for warning in said)
    model = HookedModel.from_transformer_lens(bridge)
    for name in (point, "blocks.1.attn.hook_attn_scores"):
        with pytest.raises(InterpError, match="E403") as caught:
            model.run_with_hooks(IDS, {name: lambda p, _: 0 * p})
        assert "dropped" in caught.value.fix
    with model.edit(Ablate("L0H0", "uniform")), pytest.raises(InterpError, match="E403"):
        model(IDS)
    assert canary(model, "z", [HeadId("", 0, 0)], model.batch(IDS))


def test_a_bridge_that_reads_no_tokens_is_refused() -> None:
    with pytest.raises(InterpError, match="E403") as caught:
        HookedModel.from_transformer_lens(booted("vit"))
    assert "from_hf" in caught.value.fix


def test_a_native_bridge_is_read_and_edited_as_transformer_lens_does_it(native: Any) -> None:
    model = HookedModel.from_transformer_lens(native)
    logits, cache = model.run_with_cache(IDS)
    plain, theirs = native.run_with_cache(IDS)
    assert torch.equal(logits, plain)
    assert all(torch.equal(value, theirs[name]) for name, value in cache.items())
    assert cache["pattern", 1].shape == (3, 4, 7, 7)

    def zero_head(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, 2] = 0
        return z

    wanted = native.run_with_hooks(IDS, fwd_hooks=[("blocks.1.attn.hook_z", zero_head)])
    with model.edit(Ablate("L1H2")):
        assert torch.equal(model(IDS), wanted)
    blind = {"blocks.1.attn.hook_pattern": lambda p, _: p * (torch.arange(4) != 2)[None, :, None, None]}
    torch.testing.assert_close(model.run_with_hooks(IDS, blind), wanted)
    with model.edit(Ablate("L0H1", "uniform")):
        pattern = model.run_with_cache(IDS, "*pattern")[1]["pattern", 0][:, 1]
    lower = torch.ones(7, 7).tril()
    torch.testing.assert_close(pattern, (lower / lower.sum(-1, keepdim=True)).expand(3, 7, 7))
    assert "dropped" in model.adapter.refused["blocks.0.attn.hook_attn_scores"]


# --- from here to there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gpt_oss"])
def test_a_bridge_is_made_of_a_copy(name: str) -> None:
    hf = sharp_model(name)
    model = HookedModel.from_hf(hf, name=name)
    before = {key: (value.clone(), value.data_ptr()) for key, value in hf.state_dict().items()}
    classes = [type(module) for module in hf.modules()]
    attention = hf.config._attn_implementation
    clean = model(IDS)
    bridge = model.to_transformer_lens()
    torch.testing.assert_close(bridge(IDS, return_type="logits"), clean, atol=1e-5, rtol=0)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.zero_()
    assert torch.equal(model(IDS), clean) and classes == [type(module) for module in hf.modules()]
    assert hf.config._attn_implementation == attention
    for key, value in hf.state_dict().items():
        assert torch.equal(value, before[key][0]) and value.data_ptr() == before[key][1]
    assert not bridge.training and "blocks.0.attn.hook_pattern" in model.to_transformer_lens().hook_dict


def test_a_bridge_made_here_hands_out_the_pattern_of_delegating_architectures(hooked: Any) -> None:
    for name in ("bert", "vit"):
        model = hooked(name)
        inputs = model.adapter.probe_inputs
        _, cache = model.run_with_cache(inputs, "*pattern")
        bridge = model.to_transformer_lens()
        _, theirs = bridge.run_with_cache(inputs["pixel_values"] if name == "vit" else inputs["input_ids"])
        torch.testing.assert_close(cache["pattern", 0], theirs["blocks.0.attn.hook_pattern"], atol=1e-6, rtol=0)


def test_a_bridge_of_a_bridge_is_a_copy(native: Any) -> None:
    model = HookedModel.from_transformer_lens(native)
    twin = model.to_transformer_lens()
    assert twin is not native
    assert torch.equal(twin(IDS, return_type="logits"), native(IDS, return_type="logits"))
    assert {value.data_ptr() for value in twin.state_dict().values()}.isdisjoint(
        value.data_ptr() for value in native.state_dict().values()
    )


@pytest.mark.parametrize("name", ["clip", "siglip", "llava", "qwen2_5_vl", "gemma3_vlm", "dinov2_with_registers"])
def test_models_that_transformer_lens_cannot_or_must_not_boot_are_refused(name: str, hooked: Any) -> None:
    with pytest.raises(InterpError, match="E403"):
        hooked(name).to_transformer_lens()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_our_cache_serves_the_tools_of_transformer_lens(name: str, hooked: Any) -> None:
    model = hooked(name)
    bridge = model.to_transformer_lens()
    logits, cache = model.run_with_cache(IDS)
    theirs = cache.to_transformer_lens(bridge)
    final = cache["resid_post", 1]

    parts, labels = theirs.decompose_resid(return_labels=True)
    embeddings = ["embed", "pos_embed"] if name == "gpt2" else ["embed"]
    assert labels == [*embeddings, "0_attn_out", "0_mlp_out", "1_attn_out", "1_mlp_out"]
    torch.testing.assert_close(parts.sum(0), final, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts[labels.index("1_attn_out")], cache["attn_out", 1])

    heads, head_labels = theirs.stack_head_results(return_labels=True)
    assert head_labels == [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    for layer in range(2):
        for head in range(4):
            wanted = cache["z", layer][:, :, head] @ model.w_out(layer)[head]
            torch.testing.assert_close(heads[4 * layer + head], wanted, atol=1e-5, rtol=0)

    tokens = torch.tensor([7, 8, 9])
    found = theirs.logit_attrs(parts, tokens=tokens[:, None].expand(3, 7))
    x = parts - parts.mean(-1, keepdim=True) if name == "gpt2" else parts
    unembed = model.adapter.model.get_output_embeddings().weight[tokens]
    direct = torch.einsum("cbpm,bm->cbp", x / cache["ln_final.hook_scale"], unembed)
    torch.testing.assert_close(found, direct, atol=1e-4, rtol=0)
    _, own = bridge.run_with_cache(IDS)
    same = own.logit_attrs(own.decompose_resid(), tokens=tokens[:, None].expand(3, 7))
    torch.testing.assert_close(found, same, atol=1e-5, rtol=0)
