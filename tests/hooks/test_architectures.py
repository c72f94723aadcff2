"""Edits on every architecture against surgery on the weights, and the rules that pattern edits keep."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.hooks import architectures
from interp.hooks.architectures import rows, sharp_model
from interp.hooks.interventions import Ablate, Knockout, Patch, Redistribute
from interp.hooks.names import HeadId, point_name
from interp.hooks.reference import Reference
from interp.hooks.tiny import TINY
from interp.kernels.errors import InterpError

OUT_PROJECTION = {
    ("gpt2", ""): "transformer.h.{}.attn.c_proj",
    ("gpt_neox", ""): "gpt_neox.layers.{}.attention.dense",
    ("bert", ""): "bert.encoder.layer.{}.attention.output.dense",
    ("vit", ""): "vit.layers.{}.attention.o_proj",
    ("clip", ""): "text_model.encoder.layers.{}.self_attn.out_proj",
    ("clip", "vision"): "vision_model.encoder.layers.{}.self_attn.out_proj",
    ("siglip", ""): "text_model.encoder.layers.{}.self_attn.out_proj",
    ("siglip", "vision"): "vision_model.encoder.layers.{}.self_attn.out_proj",
    ("dinov2_with_registers", ""): "encoder.layer.{}.attention.o_proj",
    ("llava", ""): "model.language_model.layers.{}.self_attn.o_proj",
    ("llava", "vision"): "model.vision_tower.encoder.layers.{}.self_attn.out_proj",
    ("qwen2_5_vl", ""): "model.language_model.layers.{}.self_attn.o_proj",
    ("qwen2_5_vl", "vision"): "model.visual.blocks.{}.attn.proj",
    ("gemma3_vlm", ""): "model.language_model.layers.{}.self_attn.o_proj",
    ("gemma3_vlm", "vision"): "model.vision_tower.encoder.layers.{}.self_attn.out_proj",
    ("bloom", ""): "transformer.h.{}.self_attention.dense",
    ("falcon", ""): "transformer.h.{}.self_attention.dense",
    ("gptj", ""): "transformer.h.{}.attn.out_proj",
}
"""Where W_O is, as the architecture's own code names it; the other models are all named like Llama."""

LLAMA_LIKE = "model.layers.{}.self_attn.o_proj"
TWO_TOWERS = ("clip", "siglip", "llava", "qwen2_5_vl", "gemma3_vlm")
TOWERS = [(name, tower) for name in TINY for tower in (("", "vision") if name in TWO_TOWERS else ("",))]
EVERY_TOWER = pytest.mark.parametrize(
    ("name", "tower"), TOWERS, ids=[f"{name}-{tower}".strip("-") for name, tower in TOWERS]
)


@pytest.mark.parametrize("name", TINY)
def test_the_row_of_the_printed_table_passes(name: str) -> None:
    found = rows(name)
    assert [row.tower for row in found] == (["", "vision"] if name in TWO_TOWERS else [""])
    for row in found:
        assert row.failures == (), row
        assert (row.pattern is None) == (row.pattern_edit is None) == TINY[name].bypasses_registry
    has_no_adapter = name in TWO_TOWERS or name == "dinov2_with_registers"
    assert (found[0].transformer_lens is None) == has_no_adapter
    assert has_no_adapter or found[0].n_shared >= 8


@torch.no_grad()
def without_head(name: str, tower: str, layer: int, head: int, inputs: dict[str, Any]) -> Tensor:
    """Output of a fresh model whose output projection ignores one head."""
    model = sharp_model(name)
    path = OUT_PROJECTION.get((name, tower), LLAMA_LIKE).format(layer)
    projection = model.get_submodule(path)
    weight = projection.weight if type(projection).__name__ == "Conv1D" else projection.weight.T  # [in, out]
    width = weight.shape[0] // 4
    weight[head * width : (head + 1) * width] = 0
    output = model(**inputs)
    return next(output[key] for key in ("logits", "last_hidden_state", "logits_per_image") if key in output)


@EVERY_TOWER
def test_an_ablated_head_is_a_model_whose_output_projection_ignores_it(name: str, tower: str, hooked: Any) -> None:
    model = hooked(name)
    layer, head = (0, 2) if name == "llava" and tower else (1, 1)
    wanted = without_head(name, tower, layer, head, model.adapter.probe_inputs)
    with model.edit(Ablate(HeadId(tower, layer, head), "zero")):
        by_z = model(model.adapter.probe_inputs)
    torch.testing.assert_close(by_z, wanted, atol=2e-5, rtol=0)
    if TINY[name].bypasses_registry:
        return
    name_of_pattern = point_name("attn.hook_pattern", layer, tower)

    def blind(pattern: Tensor, _: object) -> Tensor:
        pattern = pattern.clone()
        pattern[:, head] = 0
        return pattern

    by_pattern = model.run_with_hooks(model.adapter.probe_inputs, {name_of_pattern: blind})
    torch.testing.assert_close(by_pattern, wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bloom", "falcon", "gptj"])
def test_bypassing_architectures_refuse_pattern_edits_and_say_why(name: str, hooked: Any) -> None:
    model = hooked(name)
    for edit in (Ablate("L0H0", "uniform"), Knockout("L0H0", None, (1,)), Redistribute("L0H0", take=(0,))):
        with model.edit(edit), pytest.raises(InterpError, match="E403") as caught:
            model(model.adapter.probe_inputs)
        assert "own code" in caught.value.fix


def captured(model: Any, inputs: Any, edit: Any, name: str) -> Tensor:
    with model.edit(edit):
        return model.run_with_cache(inputs, name)[1][name]


MASKED = ("gpt2", "mistral", "gemma3", "gpt_oss", "bert")
"""Causal, a sliding window of 4, both in turn, with sinks, and both directions."""


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MASKED)
def test_pattern_operators_stay_inside_the_mask(name: str, side: str, hooked: Any) -> None:
    model = hooked(name)
    lengths = (9, 3, 6)
    batch = model.batch([list(range(5, 5 + n)) for n in lengths], padding_side=side)
    real = batch.mask
    for layer, head in ((0, 1), (model.n_layers - 1, 3)):
        point = point_name("attn.hook_pattern", layer)
        _, cache = model.run_with_cache(batch, point)
        visible = torch.zeros(3, 9, 9)
        for row, n in enumerate(lengths):
            first = 0 if side == "right" else 9 - n
            for query in range(9):
                start, stop = (0, 9) if name == "bert" else (query - window(model, layer) + 1, query + 1)
                visible[row, query, max(first, start) : min(first + n, stop)] = 1
        assert torch.equal((cache[point][:, head] > 0)[real], visible[real].bool())
        head_id = HeadId("", layer, head)
        uniform = captured(model, batch, Ablate(head_id, "uniform"), point)[:, head]
        sink = captured(model, batch, Ablate(head_id, "to-sink"), point)[:, head]
        identity = captured(model, batch, Ablate(head_id, "identity"), point)[:, head]
        torch.testing.assert_close(uniform[real], (visible / visible.sum(-1, keepdim=True))[real])
        assert torch.equal(sink[real].argmax(-1), visible[real].argmax(-1))
        assert torch.equal(sink[real].sum(-1), torch.ones(sum(lengths)))
        assert torch.equal(identity, torch.eye(9).expand(3, 9, 9))
        if name == "bert":
            continue
        moved = captured(model, batch, Redistribute(head_id, take=(first_real(batch),), share=0.5), point)[:, head]
        assert not moved[real][visible[real] == 0].any()
        torch.testing.assert_close(moved.sum(-1)[real], cache[point][:, head].sum(-1)[real])


def first_real(batch: Any) -> int:
    return int(batch.first[0])


def window(model: Any, layer: int) -> int:
    """How many keys a query sees, itself included."""
    config = model.adapter.config
    sliding = (
        config.model_type == "mistral" or getattr(config, "layer_types", {layer: ""})[layer] == "sliding_attention"
    )
    return config.sliding_window if sliding else 9


def test_image_tokens_that_see_each_other_stay_visible(hooked: Any) -> None:
    """Gemma 3 lets image tokens attend both ways; uniform attention has to follow."""
    model = hooked("gemma3_vlm")
    inputs = model.adapter.probe_inputs
    image = inputs["token_type_ids"][0].bool()
    point = point_name("attn.hook_pattern", 1)
    uniform = captured(model, inputs, Ablate("L1H0", "uniform"), point)[0, 0]
    clean = model.run_with_cache(inputs, point)[1][point][0, 0]
    assert bool((clean[image][:, image] > 0).all())
    torch.testing.assert_close(uniform, (clean > 0) / (clean > 0).sum(-1, keepdim=True))


@pytest.mark.parametrize("operator", ["uniform", "identity", "to-sink"])
def test_operators_act_inside_the_windows_of_a_vision_tower(operator: str, hooked: Any) -> None:
    model = hooked("qwen2_5_vl")
    inputs = model.adapter.probe_inputs
    point = point_name("attn.hook_pattern", 0, "vision")
    edited = captured(model, inputs, Ablate("vision.L0H2", operator), point)[0, 2]
    window = torch.arange(64) // 16
    wanted = {
        "uniform": (window[:, None] == window[None, :]) / 16,
        "identity": torch.eye(64),
        "to-sink": (torch.arange(64)[None, :] == 16 * window[:, None]).float(),
    }[operator]
    torch.testing.assert_close(edited, wanted)


@pytest.mark.parametrize("point", ["rot_q", "rot_k", "v", "z", "pattern"])
@pytest.mark.parametrize("layer", [0, 1])
def test_patching_a_windowed_tower_from_another_image(point: str, layer: int, hooked: Any) -> None:
    """A patch of all heads at every point of a layer gives the other run's z, whole or window by window."""
    model = hooked("qwen2_5_vl")
    clean = model.adapter.probe_inputs
    other = {**clean, "pixel_values": clean["pixel_values"].flip(0)}
    name, z_name = (point_name(f"attn.hook_{kind}", layer, "vision") for kind in (point, "z"))
    _, cache = model.run_with_cache(other, [name, z_name])
    selector = "kv_heads" if point in ("rot_k", "v") else "heads"
    edit = Patch(point, Reference(cache), **{selector: f"vision.L{layer}H1"}, positions=(20, 60))
    with model.edit(edit):
        _, edited = model.run_with_cache(clean, name)
    wanted = model.run_with_cache(clean, name)[1][name].clone()
    if point == "pattern":
        wanted[:, 1, [20, 60]] = cache[name][:, 1, [20, 60]]
    else:
        wanted[:, [20, 60], 1] = cache[name][:, [20, 60], 1]
    torch.testing.assert_close(edited[name], wanted)


def test_patches_from_an_image_of_another_size_are_refused(hooked: Any) -> None:
    model = hooked("qwen2_5_vl")
    for n in (48, 80):
        for point, shape in (("v", (1, n, 4, 8)), ("pattern", (1, 4, n, n))):
            source = Reference({point_name(f"attn.hook_{point}", 0, "vision"): torch.zeros(shape)})
            selector = {"kv_heads" if point == "v" else "heads": "vision.L0H0"}
            with model.edit(Patch(point, source, **selector)), pytest.raises(InterpError, match="E206"):
                model(model.adapter.probe_inputs)


def test_text_positions_do_not_index_image_patches(hooked: Any) -> None:
    for name in TWO_TOWERS:
        model = hooked(name)
        with model.edit(Ablate("vision.L0H0", positions="end")), pytest.raises(InterpError, match="E313"):
            model(model.adapter.probe_inputs)
    vit = hooked("vit")
    with vit.edit(Ablate("L0H0", positions="end")), pytest.raises(InterpError, match="E313"):
        vit(vit.adapter.probe_inputs)
    with vit.edit(Ablate("L0H0", positions=(17,))), pytest.raises(InterpError, match="E313") as caught:
        vit(vit.adapter.probe_inputs)
    assert "17 tokens" in caught.value.what


def test_only_the_layer_that_llava_drops_has_no_effect(hooked: Any) -> None:
    model = hooked("llava")
    clean = model(model.adapter.probe_inputs)
    with model.edit(Ablate("vision.L1H*", "zero")):
        assert torch.equal(model(model.adapter.probe_inputs), clean)


def test_towers_and_heads_are_counted_right(hooked: Any) -> None:
    kv = {"gpt2": 4, "gpt_neox": 4, "bert": 4, "vit": 4, "clip": 4, "siglip": 4, "dinov2_with_registers": 4}
    kv |= {"bloom": 4, "falcon": 1, "gptj": 4}
    for name in TINY:
        model = hooked(name)
        layers = 6 if name == "gemma3" else 2
        assert model.heads[""] == (4,) * layers
        assert model.kv_heads[""] == (kv.get(name, 2),) * layers
        assert set(model.heads) == ({"", "vision"} if name in TWO_TOWERS else {""})
        if "vision" in model.heads:
            assert model.heads["vision"] == model.kv_heads["vision"] == (4, 4)


def test_the_script_prints_the_table_and_says_by_its_exit_code_whether_all_bars_are_met(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "architectures.py"))["main"]
    assert main(["clip"]) == 0
    printed = capsys.readouterr().out
    assert "clip (vision)" in printed and "2 of 2 rows pass" in printed
    starts = {line.index("pass") for line in printed.splitlines() if line.startswith("clip") and line.endswith("pass")}
    assert len(starts) == 1  # aligned
    monkeypatch.setattr(architectures, "CERTIFICATE", -1.0)
    assert main(["vit"]) == 1
    assert "FAIL: certificate" in capsys.readouterr().out
