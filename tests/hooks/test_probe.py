"""The certificate and the canary: they pass on good models, and each kind of broken one is caught."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.adapters.registry import attend
from interp.hooks.architectures import sharp_model
from interp.hooks.model import HookedModel
from interp.hooks.names import NAMED_ONLY, HeadId, parse_heads
from interp.hooks.probe import canary
from interp.kernels.errors import InterpError

IDS = torch.randint(3, 119, (3, 6), generator=torch.Generator().manual_seed(2))


def registered_as(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface

    monkeypatch.setitem(AttentionInterface._global_mapping, "interp", function)


def test_the_certificate_is_the_difference_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a known error added to every hooked forward, its figures are those of that error."""
    plain = HuggingFaceAdapter.forward
    noise = 1e-5 * torch.randn(1, 8, 128, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(HuggingFaceAdapter, "forward", lambda self, inputs: plain(self, inputs) + noise)
    model = HookedModel.from_hf(sharp_model("gpt2"))
    found = model.certificate
    clean = model.run_plain(model.adapter.probe_inputs).double()
    p, q = clean.log_softmax(-1), (clean + noise.double()).log_softmax(-1)
    assert found.max_abs == pytest.approx(float(noise.abs().max()), rel=0.1)
    assert found.mean_abs == pytest.approx(float(noise.abs().mean()), rel=0.1)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=1e-12)
    by_glob = [point for point in model.adapter.available.values() if point.kind not in NAMED_ONLY]
    assert found.n_points == len(by_glob) and found.top1 == 1.0
    assert found.to_dict()["tolerance"] == pytest.approx(1e-4 * float(clean.abs().max()))


def test_outputs_that_are_no_distribution_have_no_kl(hooked: Any) -> None:
    assert hooked("clip").certificate.kl is None and hooked("dinov2_with_registers").certificate.kl is None
    assert hooked("vit").certificate.kl is not None


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_a_forward_that_differs_is_refused(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HuggingFaceAdapter.forward
    monkeypatch.setattr(HuggingFaceAdapter, "forward", lambda self, inputs: plain(self, inputs) + error)
    with pytest.raises(InterpError, match="E406") as caught:
        HookedModel.from_hf(sharp_model("llama"))
    assert "differs by" in caught.value.what


def test_attention_that_is_computed_in_another_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def colder(*args: Any, scaling: float, **kwargs: Any) -> Any:
        return attend(*args, scaling=0.5 * scaling, **kwargs)

    registered_as(colder, monkeypatch)
    with pytest.raises(InterpError, match="E406"):
        HookedModel.from_hf(sharp_model("llama"))


def test_a_mask_that_is_lost_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmasked(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **kwargs: Any) -> Any:
        return attend(module, q, k, v, torch.zeros_like(mask), **kwargs)

    registered_as(unmasked, monkeypatch)
    with pytest.raises(InterpError, match="E406"):
        HookedModel.from_hf(sharp_model("mistral"))


def test_an_attention_that_ignores_the_edited_pattern_is_caught_by_the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks fire and are thrown away: nothing differs, so the certificate passes, and no edit lands."""

    def deaf(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **kwargs: Any) -> Any:
        from transformers import AttentionInterface

        attend(module, q, k, v, mask, **kwargs)
        return AttentionInterface._global_mapping["sdpa"](module, q, k, v, mask, **kwargs)

    registered_as(deaf, monkeypatch)
    model = HookedModel.from_hf(sharp_model("llama"))
    assert model.certificate.max_abs < 1e-5
    batch = model.batch(IDS)
    for point in ("pattern", "attn_scores"):
        with pytest.raises(InterpError, match="E404") as caught:
            canary(model, point, parse_heads("all", model.heads), batch)
        assert "only 0.00e+00" in caught.value.what and caught.value.where == "L0"
    assert canary(model, "z", parse_heads("all", model.heads), batch)[0].large > 1e-2


def test_an_edit_that_changes_something_by_itself_is_caught_by_the_canary(
    hooked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hooked("gpt2")
    plain = HookedModel.run_with_hooks
    monkeypatch.setattr(HookedModel, "run_with_hooks", lambda *args, **kwargs: plain(*args, **kwargs) + 1e-3)
    with pytest.raises(InterpError, match="E404") as caught:
        canary(model, "z", [HeadId("", 1, 0)], model.batch(IDS))
    assert "identity edit" in caught.value.what and caught.value.where == "L1"


def test_a_layer_that_nothing_reads_is_caught_by_the_canary(hooked: Any) -> None:
    """LLaVA takes its image features from before the last vision layer."""
    model = hooked("llava")
    batch = model.batch(model.adapter.probe_inputs)
    assert canary(model, "z", [HeadId("vision", 0, 0)], batch)
    with pytest.raises(InterpError, match="E404") as caught:
        canary(model, "z", [HeadId("vision", 1, 0)], batch)
    assert caught.value.where == "vision.L1"


class Twice(nn.Module):
    """A decoder layer that runs its inner layer twice, as models with shared weights do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        for _ in range(2):
            hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


def test_a_layer_that_runs_twice_is_refused_with_the_reason() -> None:
    hf = sharp_model("llama")
    hf.model.layers[1] = Twice(hf.model.layers[1])
    model = HookedModel.from_hf(hf)
    for name in ("blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z", "blocks.1.attn.hook_v"):
        with pytest.raises(InterpError, match="E403") as caught:
            model.run_with_hooks(IDS, {name: lambda x, _: x})
        assert "several times" in caught.value.fix
    assert canary(model, "pattern", [HeadId("", 0, 0)], model.batch(IDS))


def test_a_hook_that_fires_twice_is_an_error() -> None:
    hf = sharp_model("llama")
    model = HookedModel.from_hf(hf)
    attention = hf.model.layers[0].self_attn
    once = attention.forward
    attention.forward = lambda *args, **kwargs: (attention.o_proj(torch.zeros(1, 1, 64)), once(*args, **kwargs))[1]
    with pytest.raises(InterpError, match="E404") as caught:
        model.run_with_hooks(IDS, {"blocks.0.attn.hook_z": lambda z, _: z})
    assert "blocks.0.attn.hook_z 2 times" in caught.value.what


def test_a_hook_that_never_fires_is_an_error() -> None:
    hf = sharp_model("llama")
    model = HookedModel.from_hf(hf)
    hf.model.layers[1].self_attn.o_proj = nn.Linear(64, 64)
    with pytest.raises(InterpError, match="E404") as caught:
        model.run_with_hooks(IDS, {"blocks.1.attn.hook_z": lambda z, _: z})
    assert "blocks.1.attn.hook_z 0 times" in caught.value.what


@pytest.mark.parametrize("point", ["z", "pattern", "attn_scores"])
def test_the_canary_tries_the_first_the_middle_and_the_last_layer(point: str, hooked: Any) -> None:
    model = hooked("gemma3")
    found = canary(model, point, parse_heads("all", model.heads), model.batch(IDS))
    assert [row.layer for row in found] == ["L0", "L3", "L5"]
    for row in found:
        assert row.identity < 1e-5 and row.large > 1e-2 and row.point == point
        assert row.to_dict() == {"point": point, "layer": row.layer, "identity": row.identity, "large": row.large}


def test_the_canary_works_window_by_window(hooked: Any) -> None:
    model = hooked("qwen2_5_vl")
    batch = model.batch(model.adapter.probe_inputs)
    for point in ("z", "pattern", "attn_scores", "v"):
        found = canary(model, point, parse_heads("vision.all", model.heads), batch)
        assert [row.layer for row in found] == ["vision.L0", "vision.L1"]
        assert all(row.identity < 1e-5 for row in found)


def test_the_canary_refuses_what_the_model_refuses(hooked: Any) -> None:
    model = hooked("bloom")
    assert canary(model, "z", [HeadId("", 0, 0)], model.batch(IDS))
    with pytest.raises(InterpError, match="E403"):
        canary(model, "pattern", [HeadId("", 0, 0)], model.batch(IDS))
