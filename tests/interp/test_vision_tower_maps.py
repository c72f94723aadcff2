"""Outlier tokens and registers, concept maps on a model that sees, and their figures."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import interp
from interp.heads import scorer
from interp.hooks.architectures import sharp_model
from interp.hooks.examples import Example
from interp.hooks.model import HookedModel
from interp.hooks.names import parse_heads
from interp.hooks.pairs import Pairs, tokenise
from interp.kernels.errors import InterpError
from interp.report.vision_figures import aligned_grid, patch_overlay
from interp.vision.concept_map import cells_inside, concept_maps, faithfulness
from interp.vision.frame import Frame
from interp.vision.geometry import geometry
from interp.vision.head_maps import aligned_heads
from interp.vision.registers import fix_at_mean, outlier_tokens
from interp.zoo.vision.scenes import World, draw_scene
from interp.zoo.vision.shapes import paint


@cache
def dino() -> HookedModel:
    return HookedModel.from_hf(sharp_model("dinov2_with_registers"), name="dino")


def pixels(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_lengths_outliers_and_received_attention_by_hand() -> None:
    """Layer 1 makes patches 6 and 9 of the first picture ten times as long."""
    network = sharp_model("vit")

    forward = network.vit.layers[0].forward

    def lengthened(*args: Any, **options: Any) -> torch.Tensor:
        out = forward(*args, **options).clone()
        out[0, [6, 9]] *= 10
        return out

    network.vit.layers[0].forward = lengthened
    model = HookedModel.from_hf(network, name="vit")
    batch = model.batch({"pixel_values": pixels()})
    found = outlier_tokens(model, batch)
    assert found.is_outlier[0].nonzero().tolist() == [[0, 6], [0, 9]]
    _, cache_ = model.run_with_cache(batch, ["*resid_post", "*pattern"])
    norms = cache_["blocks.1.hook_resid_post"].double().norm(dim=-1)
    assert found.norms[1].numpy() == pytest.approx(norms.numpy())
    received = cache_["blocks.1.attn.hook_pattern"].double().mean(1).sum(1)
    assert found.received[1].numpy() == pytest.approx(received.numpy(), abs=1e-5)
    assert float(found.received.mean()) == pytest.approx(1, abs=1e-6)
    assert found.share()[0] == pytest.approx(2 / (4 * 16)) and found.share("register").tolist() == [0, 0]
    absolute = outlier_tokens(model, batch, rule="absolute", cut=float(norms.max()) + 1)
    assert not absolute.is_outlier[1].any() and "absolute" in str(absolute)
    with pytest.raises(InterpError, match="rule is"):
        outlier_tokens(model, batch, rule="mine")


def test_registers_are_told_from_patches() -> None:
    network = sharp_model("dinov2_with_registers")
    with torch.no_grad():
        network.embeddings.register_tokens.mul_(0).add_(40 * torch.randn(4, 32))
    found = outlier_tokens(model := HookedModel.from_hf(network, name="dino"), model.batch({"pixel_values": pixels()}))
    assert found.share("register")[0] == 1 and found.share()[0] == 0 and not found.used_as_registers.any()
    assert "register" in str(found)


def test_fixing_registers_at_their_means_by_hand() -> None:
    batch = dino().batch({"pixel_values": pixels()})
    found = fix_at_mean(dino(), batch, draws=3)
    assert found.tokens == (1, 2, 3, 4) and found.controls.shape == (3, 4)
    network = sharp_model("dinov2_with_registers")
    with torch.no_grad():
        clean = network(pixels()).last_hidden_state[:, 0].double()
        entering = network(pixels(), output_hidden_states=True).hidden_states
        means = {index: entering[index + 1].mean(0) for index in range(2)}
        for index, layer in enumerate(network.encoder.layer):

            def fix(_: object, args: object, out: torch.Tensor, index: int = index) -> torch.Tensor:
                out = out.clone()
                out[:, 1:5] = means[index][1:5]
                return out

            layer.register_forward_hook(fix)
        fixed = network(pixels()).last_hidden_state[:, 0].double()
    expected = torch.cosine_similarity(fixed, clean, dim=-1)
    assert found.kept.numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert float(found.kept.max()) < 1 - 1e-7 and "random patches" in str(found)


def test_registers_that_see_nothing_of_the_picture_may_be_fixed_without_loss() -> None:
    """Registers whose keys and values alone are read, and which read nothing themselves, are the same in all pictures."""
    one = pixels(1).expand(3, -1, -1, -1)
    found = fix_at_mean(dino(), dino().batch({"pixel_values": one}), draws=2)
    assert found.kept.numpy() == pytest.approx(1.0) and found.controls.numpy() == pytest.approx(1.0)
    vit = HookedModel.from_hf(sharp_model("vit"), name="vit")
    with pytest.raises(InterpError, match="0 tokens to fix"):
        fix_at_mean(vit, vit.batch({"pixel_values": pixels()}))


@cache
def vlm() -> HookedModel:
    return interp.load("mini-vlm")


@cache
def asked() -> tuple[Pairs, np.ndarray]:
    """Pictures, the shape whose colour is asked about, and where it is: the cells it fills on the model's grid."""
    rng, boxes = np.random.default_rng(0), []
    examples: list[Example] = []
    while len(examples) < 24:
        scene = draw_scene(World(), "train", rng)
        shapes = [thing.shape for thing in scene.things]
        clear = [thing for thing in scene.things if thing.opacity > 0.8 and shapes.count(thing.shape) == 1]
        if not clear:
            continue
        text, start = f"What colour is the {clear[0].shape}?", len("What colour is the ")
        prompt = f"USER: <image>\n{text} ASSISTANT:"
        start += prompt.index("What")
        span = {"concept": (start, start + len(clear[0].shape))}
        image = paint(scene.things, np.random.default_rng(int(rng.integers(2**31))), grain=12.0)
        examples.append(Example(f"{len(examples)}", prompt, f" {clear[0].colour}", spans=span, image=image))
        row, col = divmod(clear[0].cell, 3)
        boxes.append((row * 16, col * 16, row * 16 + 16, col * 16 + 16))
    pairs = tokenise(vlm().tokenizer, examples, processor=vlm().processor)
    where = geometry(vlm(), pairs.clean)
    return pairs, np.stack([cells_inside(where, [box]) for box in boxes])


def test_concept_maps_by_hand() -> None:
    pairs, _ = asked()
    found = concept_maps(vlm(), pairs.clean, "concept", layers=[1, 2])
    names = [f"blocks.{layer}.{kind}" for layer in (1, 2) for kind in ("hook_attn_out", "attn.hook_attn_scores")]
    _, cache_ = vlm().run_with_cache(pairs.clean, names)
    for image in (0, 5):
        at, tokens = pairs.clean.spans["concept"][image][-1], pairs.clean.spans["image"][image]
        outputs = [cache_[f"blocks.{layer}.hook_attn_out"][image].double() for layer in (1, 2)]
        expected = np.mean([[float(out[at] @ out[token]) for token in tokens] for out in outputs], 0)
        assert found.output[image].flatten().numpy() == pytest.approx(expected, abs=1e-4)
        scores = [cache_[f"blocks.{layer}.attn.hook_attn_scores"][image, :, at].double().mean(0) for layer in (1, 2)]
        expected = np.mean([[float(row[token]) for token in tokens] for row in scores], 0)
        assert found.attention[image].flatten().numpy() == pytest.approx(expected, abs=1e-4)
    unit = concept_maps(vlm(), pairs.clean, "concept", layers=[1], unit=True)
    assert float(unit.output.abs().max()) <= 1 + 1e-9


def test_attention_of_the_answer_finds_the_thing_that_is_asked_about() -> None:
    """Where the answer is read, attention finds the thing; maps of outputs do not on this model, which reads one way."""
    pairs, inside = asked()
    found = concept_maps(vlm(), pairs.clean, pairs.read_at.tolist())
    attention, output = (np.nanmean(faithfulness(maps, inside)) for maps in (found.attention, found.output))
    shuffled = np.nanmean(faithfulness(found.attention.roll(1, 0), inside))
    assert attention > 0.9 and shuffled < attention - 0.2
    assert np.isfinite(output)


def test_cells_and_faithfulness_by_hand() -> None:
    pairs, _ = asked()
    where = geometry(vlm(), pairs.clean)
    assert where.shape == (6, 6) and np.argwhere(cells_inside(where, [(8, 16, 16, 32)])).tolist() == [[1, 2], [1, 3]]
    maps = torch.tensor([[[3.0, 1.0], [2.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])
    masks = np.array([[[True, False], [False, True]], [[True, False], [False, False]], [[True, True], [True, True]]])
    found = faithfulness(maps, masks)
    assert found[:2].tolist() == [0.5, 0.5] and np.isnan(found[2])


def test_concepts_that_cannot_be_mapped_are_refused() -> None:
    pairs, _ = asked()
    with pytest.raises(InterpError, match="no role"):
        concept_maps(vlm(), pairs.clean, "nothing")
    with pytest.raises(InterpError, match="before its picture"):
        concept_maps(vlm(), pairs.clean, [1] * len(pairs))
    clip = HookedModel.from_hf(sharp_model("clip"), name="clip")
    with pytest.raises(InterpError, match="do not meet"):
        concept_maps(clip, clip.batch(dict(clip.adapter.probe_inputs)), [1])


def test_figures() -> None:
    pairs, _ = asked()
    maps = aligned_heads(vlm(), pairs.clean).numpy()
    assert maps.shape == (3, 6, 11, 11) and maps.sum((-2, -1)) == pytest.approx(np.ones((3, 6)), abs=1e-5)
    grid = aligned_grid(maps)
    assert np.array(grid.data[0].z, dtype=float).shape == (3 * 12 - 1, 6 * 12 - 1) and len(grid.data[1].x) == 18
    assert "+1 down, +0 right" in grid.data[0].hovertext[6][5]
    found = concept_maps(vlm(), pairs.clean, "concept")
    picture = np.asarray(pairs.examples[0].image)
    frame = Frame.of(vlm().processor, (96, 96), (48, 48))
    one, two = (patch_overlay(np.kron(picture, np.ones((size, size, 1), np.uint8)), [found.output[0].numpy()], ["<b>"],
                              geometry(vlm(), pairs.clean), fitted) for size, fitted in ((1, None), (2, frame)))  # fmt: skip
    heat = [next(trace for trace in figure.data if isinstance(trace, go.Heatmap)) for figure in (one, two)]
    assert list(heat[0].x) == [-0.5 + 8 * step for step in range(7)]
    assert list(heat[1].y) == [-0.5 + 16 * step for step in range(7)]
    assert "&lt;b&gt;" in one.layout.annotations[1].text


def test_scores_of_a_tower_inside_a_model_that_reads_text_are_those_of_the_tower_alone() -> None:
    from interp.vision.part import pictures_alone, seeing_part

    pairs, _ = asked()
    part = seeing_part(vlm())
    batch = pictures_alone(pairs.clean)
    alone = Pairs(pairs.examples, batch, None, None, None, torch.full((len(pairs),), -1), pairs.tokens)
    for name in ("offset-local", "patch-distance"):
        inside = scorer(name).measure(vlm(), pairs, parse_heads("vision.all", vlm().heads), 8)
        outside = scorer(name).measure(part, alone, parse_heads("all", part.heads), 8)
        assert inside.values == pytest.approx(outside.values, abs=1e-5)
