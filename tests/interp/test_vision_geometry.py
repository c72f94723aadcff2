"""Which token shows which patch, on tiny models of every kind: a bright patch changes the token that is named for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp
from interp.hooks.architectures import sharp_model
from interp.hooks.batch import Batch
from interp.hooks.model import HookedModel
from interp.hooks.tiny import tiny_model
from interp.kernels.errors import InterpError
from interp.vision.frame import Frame
from interp.vision.geometry import Geometry, geometry
from interp.vision.layout import block_order
from interp.vision.probing import reached_text, stream_at

SEEING = ("vit", "clip", "siglip", "dinov2_with_registers", "llava", "qwen2_5_vl", "gemma3_vlm")
MEETING = ("llava", "qwen2_5_vl", "gemma3_vlm")


@cache
def opened(name: str) -> HookedModel:
    return HookedModel.from_hf(sharp_model(name), name=name)


def black(name: str) -> Batch:
    """The probe's text beside a black picture."""
    inputs = dict(opened(name).adapter.probe_inputs)
    return opened(name).batch({**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])})


def lit(batch: Batch, where: Geometry, row: int, col: int) -> Batch:
    """The same with one bright patch, made by hand from the picture as a person sees it."""
    pixels = batch.inputs["pixel_values"].clone()
    if pixels.ndim == 4:
        top, left, bottom, right = where.box(row, col)
        pixels[:, :, top:bottom, left:right] = 1
        return replace(batch, inputs={**batch.inputs, "pixel_values": pixels})
    canvas = torch.zeros(3, where.shape[0] * where.patch[0], where.shape[1] * where.patch[1])
    top, left, bottom, right = where.box(row, col)
    canvas[:, top:bottom, left:right] = 1
    return replace(batch, inputs={**batch.inputs, "pixel_values": cut_up(canvas, where.patch[0])})


def cut_up(canvas: torch.Tensor, patch: int, merge: int = 2, frames: int = 2) -> torch.Tensor:
    """Rows of patches as Qwen2.5-VL's processor makes them, block by block: written out loop by loop."""
    _, height, width = canvas.shape
    rows = []
    for top in range(0, height, patch * merge):
        for left in range(0, width, patch * merge):
            for down in range(merge):
                for across in range(merge):
                    y, x = top + down * patch, left + across * patch
                    piece = canvas[:, y : y + patch, x : x + patch]
                    rows.append(piece[:, None].expand(-1, frames, -1, -1).flatten())
    return torch.stack(rows)


def entering(model: HookedModel, batch: Batch, tower: str) -> torch.Tensor:
    return stream_at(model, batch, f"{tower}.blocks.0.hook_resid_pre".removeprefix("."))[0]


@pytest.mark.parametrize("name", SEEING)
def test_a_bright_patch_changes_the_token_that_is_named_for_it_and_no_other(name: str) -> None:
    model, batch = opened(name), black(name)
    where = geometry(model, batch)
    before = entering(model, batch, where.tower)
    assert where.n_tokens == len(before)
    for row, col in np.ndindex(where.shape):
        after = entering(model, lit(batch, where, row, col), where.tower)
        changed = (after - before).abs().amax(-1).nonzero()[:, 0].tolist()
        assert changed == [where.tokens[row, col]], (row, col)
        assert where.place(changed[0]) == (row, col) and where.kind(changed[0]) == "patch"


@pytest.mark.parametrize("name", MEETING)
def test_image_tokens_of_the_text_stand_for_the_cells_that_are_named(name: str) -> None:
    """What the tower's last layer that is read wrote for one patch moves one image token, for patches all over."""
    model, batch = opened(name), black(name)
    where = geometry(model, batch)
    places = where.text_positions(batch, model.adapter.config)[0]
    high, wide = where.cell
    for row, col in list(np.ndindex(where.shape))[::7]:
        reached = reached_text(model, where.tower, batch, int(where.tokens[row, col]))
        assert reached == [places[row // high, col // wide]], (row, col)


def test_sizes_and_special_tokens() -> None:
    found = {name: geometry(opened(name), black(name)) for name in SEEING}
    assert {name: one.special for name, one in found.items()} == {
        "vit": {"cls": (0,)}, "clip": {"cls": (0,)}, "siglip": {}, "llava": {"cls": (0,)}, "qwen2_5_vl": {},
        "gemma3_vlm": {}, "dinov2_with_registers": {"cls": (0,), "register": (1, 2, 3, 4)},
    }  # fmt: skip
    assert {name: one.cell for name, one in found.items() if name in MEETING} == {
        "llava": (1, 1), "qwen2_5_vl": (2, 2), "gemma3_vlm": (2, 2),
    }  # fmt: skip
    assert found["gemma3_vlm"].text_box(1, 0) == (16, 0, 32, 16)
    assert found["clip"].text is None and found["vit"].tower == "" and found["clip"].tower == "vision"
    assert found["vit"].kind(0) == "cls" and found["dinov2_with_registers"].kind(3) == "register"
    with pytest.raises(InterpError, match="shows no patch"):
        found["vit"].place(0)


def test_pictures_that_are_not_square() -> None:
    model = opened("siglip")
    batch = black("siglip")
    wide = replace(batch, inputs={**batch.inputs, "pixel_values": torch.zeros(1, 3, 32, 32)})
    assert geometry(model, wide).shape == (4, 4)
    vit = HookedModel.from_hf(tiny_model("vit", image_size=[24, 40]), name="wide")
    where = geometry(vit, vit.batch({"pixel_values": torch.zeros(2, 3, 24, 40)}))
    assert where.shape == (3, 5) and where.tokens[2, 1] == 1 + 2 * 5 + 1
    values = torch.arange(where.n_tokens).expand(2, -1)
    assert torch.equal(where.on_grid(values)[1], torch.arange(1, 16).reshape(3, 5))


@pytest.mark.parametrize(("merge", "window"), [(1, None), (2, None), (2, 2), (2, 3), (1, 2)])
def test_blocks_and_windows_against_loops(merge: int, window: int | None) -> None:
    rows, cols, order = 8, 12, []
    side = window or 100
    for top in range(0, rows // merge, side):
        for left in range(0, cols // merge, side):
            for y in range(top, min(top + side, rows // merge)):
                for x in range(left, min(left + side, cols // merge)):
                    order += [(y * merge + i, x * merge + j) for i in range(merge) for j in range(merge)]
    found = block_order(rows, cols, merge, window)
    assert [found[place] for place in order] == list(range(rows * cols))


def test_what_cannot_be_known_is_refused() -> None:
    text = HookedModel.from_hf(tiny_model("llama"))
    with pytest.raises(InterpError, match="no part of"):
        geometry(text, text.batch([[5, 6, 7]]))
    llava = opened("llava")
    with pytest.raises(InterpError, match="no picture"):
        geometry(llava, llava.batch([[5, 6, 7]]))
    vit = HookedModel.from_hf(tiny_model("vit", image_size=32), name="vit")
    with pytest.raises(InterpError, match="no whole number of patches"):
        geometry(vit, vit.batch({"pixel_values": torch.zeros(1, 3, 30, 32)}))


def test_an_order_that_is_none_of_the_known_ones_is_refused() -> None:
    """Patches of the second row are handed on before those of the first."""
    network = tiny_model("vit")
    embeddings = network.vit.embeddings
    embeddings.register_forward_hook(lambda _, args, out: out[:, [0, 5, 6, 7, 8, 1, 2, 3, 4, *range(9, 17)]])
    model = HookedModel.from_hf(network, name="moved")
    with pytest.raises(InterpError, match="was expected"):
        geometry(model, model.batch({"pixel_values": torch.zeros(1, 3, 32, 32)}))


def test_a_tower_whose_tokens_see_each_other_at_once_is_refused() -> None:
    network = tiny_model("vit")
    network.vit.embeddings.register_forward_hook(lambda _, args, out: out + out.mean(1, keepdim=True))
    model = HookedModel.from_hf(network, name="mixed")
    with pytest.raises(InterpError, match="reaches 17 tokens"):
        geometry(model, model.batch({"pixel_values": torch.zeros(1, 3, 32, 32)}))


@pytest.mark.parametrize("size", [(96, 96), (120, 201), (201, 120)])
def test_patches_in_the_picture_as_it_was_given(size: tuple[int, int]) -> None:
    """A box of the given picture that is painted white is where the processed picture is brightest."""
    from transformers import CLIPImageProcessorPil

    square = {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square)
    frame = Frame.of(processor, size, (32, 32))
    for box in ((0, 0, 8, 8), (8, 16, 16, 24), (24, 24, 32, 32)):
        top, left, bottom, right = (round(place) for place in frame.original(box))
        picture = np.zeros((*size, 3), np.uint8)
        picture[top:bottom, left:right] = 255
        pixels = processor(images=picture, return_tensors="np")["pixel_values"][0].mean(0)
        light = pixels - pixels.min()
        inside = light[box[0] : box[2], box[1] : box[3]].sum()
        assert inside / light.sum() > 0.9 and inside / light.max() > 0.9 * 64


def test_a_frame_that_does_not_fit_is_refused() -> None:
    model = interp.load("mini-vlm")
    assert Frame.of(model.processor, (96, 48), (48, 48)).original((0, 8, 8, 16)) == (0.0, 8.0, 16.0, 16.0)
    with pytest.raises(InterpError, match="the model reads"):
        Frame.of(model.processor, (48, 48), (32, 32))
