"""Every hook point holds what its name says: against a forward written by hand, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks.architectures import sharp_model
from interp.hooks.model import HookedModel
from interp.hooks.names import POINTS, READ_ONLY, HeadId
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError

IDS = torch.randint(3, 128, (3, 7), generator=torch.Generator().manual_seed(1))
TOLERANCE = {"gpt2": 1e-11, "llama": 1e-5}
"""Llama's norms and rotary tables are float32 in every dtype."""

FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama"])


@FAMILIES
def test_every_point_is_what_the_forward_by_hand_gives(family: str, hooked: Any, naive: Any) -> None:
    model = hooked(family, dtype=torch.float64)
    logits, cache = model.run_with_cache(IDS, ["*", "*hook_result", "*hook_operator", "*hook_mlp_in"])
    wanted_logits, wanted = naive(model.adapter.model)(IDS)
    torch.testing.assert_close(logits, wanted_logits, atol=TOLERANCE[family], rtol=0)
    assert set(cache) == set(model.adapter.available) == set(wanted)
    for name, value in cache.items():
        own, other = value, wanted[name]
        if name.endswith("attn_scores"):  # masked scores are the dtype's minimum, and by hand minus infinity
            hidden = other.isinf()
            assert bool((own[hidden] < -1e300).all())
            own, other = own.masked_fill(hidden, 0.0), other.masked_fill(hidden, 0.0)
        torch.testing.assert_close(own, other, atol=TOLERANCE[family], rtol=0, msg=name)


@FAMILIES
def test_axes_are_those_of_the_table(family: str, hooked: Any) -> None:
    model = hooked(family, dtype=torch.float64)
    _, cache = model.run_with_cache(IDS, ["*", "*hook_result", "*hook_operator", "*hook_mlp_in"])
    sizes = {"batch": 3, "pos": 7, "query_pos": 7, "key_pos": 7, "d_model": 64, "d_head": 16, "1": 1}
    sizes |= {"head": model.heads[""][0], "kv_head": model.kv_heads[""][0]}
    for name, value in cache.items():
        axes = POINTS[model.adapter.available[name].kind].split()
        assert list(value.shape) == [sizes[axis] for axis in axes], name


@FAMILIES
def test_results_of_all_heads_and_the_bias_add_up_to_attn_out(family: str, hooked: Any) -> None:
    model = hooked(family, dtype=torch.float64)
    _, cache = model.run_with_cache(IDS, ["*hook_result", "*hook_attn_out"])
    for layer in range(model.n_layers):
        out = model.adapter.block(layer).out
        bias = torch.zeros(()) if out.bias is None else out.bias if hasattr(out, "bias") else 0
        torch.testing.assert_close(cache["result", layer].sum(2) + bias, cache["attn_out", layer], atol=1e-12, rtol=0)


def test_a_query_head_reads_the_kv_head_of_its_group(hooked: Any) -> None:
    model = hooked("llama", dtype=torch.float64)
    assert model.heads == {"": (4, 4)} and model.kv_heads == {"": (2, 2)}
    assert [model.kv_head(HeadId("", 0, head)) for head in range(4)] == [0, 0, 1, 1]
    clean, cache = model.run_with_cache(IDS, "blocks.0.attn.hook_z")

    def without(v: Tensor, _: object, *, kv_head: int) -> Tensor:
        v = v.clone()
        v[:, :, kv_head] = 0
        return v

    for kv_head in range(2):
        seen: dict[str, Tensor] = {}
        hooks = {
            "blocks.0.attn.hook_v": lambda v, c, kv_head=kv_head: without(v, c, kv_head=kv_head),
            "blocks.0.attn.hook_z": lambda z, c, seen=seen: seen.update(z=z.clone()),
        }
        model.run_with_hooks(IDS, hooks)
        silent = [head for head in range(4) if not seen["z"][:, :, head].any()]
        assert silent == [head for head in range(4) if model.kv_head(HeadId("", 0, head)) == kv_head]


def test_w_out_projects_z_to_what_the_module_writes(hooked: Any) -> None:
    for family in ("gpt2", "llama", "bert", "vit", "gpt_neox", "bloom", "falcon", "gptj"):
        model = hooked(family)
        z = torch.randn(1, 2, model.heads[""][0], 64 // model.heads[""][0] if family != "vit" else 8)
        out = model.adapter.block(0).out
        own = torch.einsum("bphd,hdm->bpm", z, model.w_out(0))
        wanted = out(z.flatten(-2)) - (0 if out.bias is None else out.bias)
        torch.testing.assert_close(own, wanted, atol=1e-5, rtol=0)


def test_layers_that_nobody_looks_at_run_sdpa(hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface

    model = hooked("gemma3", sliding_window=4)
    plain = AttentionInterface._global_mapping["sdpa"]
    fast: list[int] = []

    def counting(module: Any, *args: Any, **kwargs: Any) -> Any:
        fast.append(module.layer_idx)
        return plain(module, *args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", counting)
    everything, some = list(range(6)), [0, 1, 3, 4, 5]
    for names, wanted in (
        ("*hook_z", everything),
        ("*hook_resid_post", everything),
        ("*attn.hook_v", everything),
        (["blocks.2.attn.hook_pattern", "*hook_z"], some),
        ("blocks.2.attn.hook_attn_scores", some),
        ("*hook_pattern", []),
    ):
        fast.clear()
        model.run_with_cache(IDS, names)
        assert sorted(fast) == wanted, names


def test_a_model_that_runs_eager_stays_eager(hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface

    model = hooked("llama", attn_implementation="eager")
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", None)
    _, cache = model.run_with_cache(IDS, "*attn.hook_v")
    assert len(cache) == 2


def test_points_that_do_not_hold_are_refused_with_the_reason(hooked: Any) -> None:
    cases = [
        ("gpt2", "blocks.0.attn.hook_rot_q", "not rotary"),
        ("gpt_neox", "blocks.1.hook_resid_mid", "parallel"),
        ("bert", "ln_final.hook_scale", "recognised"),
        *((name, f"blocks.1.attn.hook_{kind}", "own code") for name in ("bloom", "falcon", "gptj") for kind in KINDS),
    ]
    for family, point, why in cases:
        with pytest.raises(InterpError, match="E403") as caught:
            hooked(family).run_with_cache(IDS, point)
        assert why in caught.value.fix, (family, point)


KINDS = ("attn_scores", "pattern", "rot_q", "rot_k", "operator")


def test_bypassing_architectures_still_give_and_take_z(hooked: Any) -> None:
    for family in ("bloom", "falcon", "gptj"):
        model = hooked(family)
        clean, cache = model.run_with_cache(IDS, "*hook_z")
        assert [value.shape for value in cache.values()] == [(3, 7, 4, 16)] * 2
        edited = model.run_with_hooks(IDS, {"blocks.1.attn.hook_z": lambda z, _: 0 * z})
        assert float((edited - clean).abs().max()) > 1e-3


def test_names_that_do_not_exist_and_globs_that_match_nothing_are_errors(hooked: Any) -> None:
    model = hooked("gpt2")
    with pytest.raises(InterpError, match="E201") as caught:
        model.run_with_cache(IDS, "blocks.0.hook_z")
    assert "blocks.0.attn.hook_z" in caught.value.fix
    with pytest.raises(InterpError, match="E201"):
        model.run_with_hooks(IDS, {"blocks.2.attn.hook_z": lambda z, _: z})
    with pytest.raises(InterpError, match="E201"):
        model.run_with_cache(IDS, ["*hook_z", "blocks.9.*"])
    with pytest.raises(InterpError, match="E404"):
        model.run_with_cache(IDS, [])


def test_what_is_computed_beside_the_forward_cannot_be_edited(hooked: Any) -> None:
    model = hooked("gpt2")
    for name in ("blocks.0.attn.hook_result", "ln_final.hook_scale"):
        with pytest.raises(InterpError, match="E403"):
            model.run_with_hooks(IDS, {name: lambda x, _: 2 * x})
    seen: list[Tensor] = []
    model.run_with_hooks(IDS, {"ln_final.hook_scale": lambda x, _: seen.append(x)})
    assert len(seen) == 1


def test_a_vision_tower_without_images_is_left_out_of_globs_and_refused_by_name(hooked: Any) -> None:
    model = hooked("llava")
    _, cache = model.run_with_cache(IDS % 100 + 3, "*hook_z")
    assert list(cache) == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    with pytest.raises(InterpError, match="E404") as caught:
        model.run_with_cache(IDS % 100 + 3, "vision.blocks.0.attn.hook_z")
    assert "images" in caught.value.fix
    with pytest.raises(InterpError, match="E404"):
        model.run_with_hooks(IDS % 100 + 3, {"vision.blocks.0.attn.hook_z": lambda z, _: z})


def test_windows_of_a_vision_model_are_one_map(hooked: Any) -> None:
    model = hooked("qwen2_5_vl")
    _, cache = model.run_with_cache(model.adapter.probe_inputs, "vision.*")
    windowed, whole = cache["pattern", 0, "vision"], cache["pattern", 1, "vision"]
    assert windowed.shape == whole.shape == (1, 4, 64, 64)
    assert cache["rot_k", 0, "vision"].shape == (1, 64, 4, 8)
    window = torch.arange(64) // 16
    inside = window[:, None] == window[None, :]
    assert not windowed[..., ~inside].any() and bool((windowed[..., inside] > 0).all()) and bool((whole > 0).all())
    assert bool(cache["attn_scores", 0, "vision"][..., ~inside].isneginf().all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_models_of_every_dtype_open_and_say_how_close_they_are(dtype: torch.dtype, hooked: Any) -> None:
    for family in ("gpt2", "llama", "gemma2", "bert"):
        certificate = hooked(family, dtype=dtype).certificate
        assert certificate.max_abs <= certificate.tolerance
        assert certificate.dtype == str(dtype).removeprefix("torch.")
        assert certificate.top1 == 1.0 or dtype != torch.float64


@pytest.mark.parametrize(
    ("family", "h", "allowed"),
    [("gpt2", 1e-5, 1e-5), ("gpt_neox", 1e-5, 1e-5), ("llama", 1e-3, 2e-2), ("phi3", 1e-3, 2e-2)],
)
def test_gradients_of_every_point_are_differences_of_the_output(
    family: str, h: float, allowed: float, hooked: Any
) -> None:
    """Along a random direction u at each point: the gradient times u against (f(x + hu) - f(x - hu)) / 2h.

    The norms of Llama and Phi-3 round to float32, which a small h would blow up.
    """
    model = hooked(family, dtype=torch.float64)
    readout = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    computed = (*READ_ONLY, "attn.hook_result")
    names = [name for name, point in model.adapter.available.items() if point.kind not in computed]
    logits, cache = model.run_with_cache(IDS, names, grad=True)
    gradients = torch.autograd.grad((logits * readout).sum(), [cache[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        masked = cache[name].detach() < -1e300
        direction = torch.randn(masked.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        step = (h * direction).masked_fill(masked, 0.0)
        up, down = (model.run_with_hooks(IDS, {name: lambda x, _, s=s: x + s * step}) for s in (1, -1))  # noqa: B023
        wanted = float(((up - down) * readout).sum()) / (2 * h)
        assert float((gradient * direction).sum()) == pytest.approx(wanted, rel=allowed, abs=allowed), name


def test_what_is_captured_without_gradients_holds_no_graph(hooked: Any) -> None:
    logits, cache = hooked("llama").run_with_cache(IDS)
    assert not logits.requires_grad and not any(value.requires_grad for value in cache.values())


def test_short_names_of_the_cache(hooked: Any) -> None:
    _, cache = hooked("llama").run_with_cache(IDS, ["*hook_z", "*resid_post", "*pattern"])
    assert cache["z", 1] is cache["blocks.1.attn.hook_z"]
    assert cache["resid_post", 0] is cache["blocks.0.hook_resid_post"]
    for key in ("blocks.0.attn.hook_q", ("zz", 0), ("z", 9)):
        with pytest.raises(InterpError, match="E201"):
            cache[key]
    assert "MiB" in repr(cache) and len(cache) == 6


def test_a_hook_that_returns_another_shape_is_refused(hooked: Any) -> None:
    model = hooked("llama")
    wrong = {
        "blocks.0.attn.hook_z": lambda z, _: z[:, :, :1],
        "blocks.0.attn.hook_pattern": lambda p, _: p.mean(1, keepdim=True),
        "blocks.0.hook_resid_pre": lambda x, _: x.mean(1, keepdim=True),
        "blocks.0.attn.hook_q": lambda q, _: q[..., :1],
        "blocks.0.attn.hook_v": lambda v, _: v[:1],
    }
    for name, hook in wrong.items():
        with pytest.raises(InterpError, match="E206"):
            model.run_with_hooks(IDS, {name: hook})


def test_training_mode_is_refused(hooked: Any) -> None:
    with pytest.raises(InterpError, match="E205"):
        HookedModel.from_hf(sharp_model("gpt2").train())
    model = HookedModel.from_hf(sharp_model("gpt2"))
    model.adapter.model.train()
    with pytest.raises(InterpError, match="E205"):
        model(IDS)


def small(name: str, **settings: Any) -> Any:
    """A random model of an architecture that has no entry in the table."""
    import transformers

    common = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**common, **special, **settings)
    torch.manual_seed(0)
    return HookedModel.from_hf(getattr(transformers, f"{name}ForCausalLM")(config).eval(), name=name)


def test_an_mlp_that_runs_all_prompts_in_one_row() -> None:
    """OPT flattens prompts and positions before its MLP; hooks see [batch pos d_model] all the same."""
    model = small("OPT", ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=32)
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    _, both = model.run_with_cache(prompts, "blocks.*.hook_mlp_out")
    for row, prompt in enumerate(prompts):
        _, alone = model.run_with_cache([prompt], "blocks.*.hook_mlp_out")
        for name, value in alone.items():
            assert both[name].shape == (2, 4, 32)
            torch.testing.assert_close(both[name][row], value[0])


def test_a_norm_that_does_not_say_its_epsilon_is_refused() -> None:
    model = small("Olmo", intermediate_size=48)
    assert "does not say" in model.adapter.refused["ln_final.hook_scale"]


@pytest.mark.parametrize("name", ["llava", "siglip", "vit", "llama", "gpt2"])
def test_an_edit_of_a_layer_whose_stream_the_model_notes_reaches_the_output(name: str) -> None:
    """LLaVA reads the vision tower through hidden states that transformers notes in hooks of its own, before ours."""
    model = HookedModel.from_hf(tiny_model(name))
    inputs = dict(model.adapter.probe_inputs)
    plain, noise = model(inputs), torch.Generator().manual_seed(0)
    unread = {"llava": {"vision.blocks.1.hook_resid_post"}}.get(name, set())  # it reads the last layer but one
    for point in [point for point in model.adapter.available if point.endswith("hook_resid_post")]:
        edited = model.run_with_hooks(inputs, {point: lambda x, _: x + torch.randn(x.shape, generator=noise)})
        assert (float((edited - plain).abs().max()) > 1e-3) == (point not in unread), point
