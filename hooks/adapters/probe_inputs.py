"""The smallest inputs that run every part of a model, made from its configuration alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.hooks.reader import n_positions

N_TOKENS = 8


def probe_inputs(model: Any) -> dict[str, Tensor]:
    """Keyword arguments of one forward: eight ordinary tokens, one random image, or both.

    A vision-language architecture that is not listed here is probed with text alone; its vision tower then has no
    proven hook points, and says so.
    """
    config = model.config
    parameter = next(model.parameters())
    inputs = _INPUTS.get(config.model_type, _plain)(model)
    return {
        name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def token_ids(config: Any, n: int = N_TOKENS) -> Tensor:
    """`n` distinct ids spread over the vocabulary, special tokens left out; fewer where the model has fewer positions."""
    config = config.get_text_config()
    special = {
        value for name in dir(config) if name.endswith("_token_id") and isinstance(value := getattr(config, name), int)
    }
    ordinary = [index for index in range(config.vocab_size) if index not in special]
    n = min(n, n_positions(config) or n)
    step = max(1, len(ordinary) // (n + 1))
    return torch.tensor([ordinary[step : step * (n + 1) : step][:n]])


def image(config: Any, channels: int = 3) -> Tensor:
    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(1, getattr(config, "num_channels", channels), height, width, generator=_generator())


def _plain(model: Any) -> dict[str, Tensor]:
    if model.main_input_name == "pixel_values":
        return {"pixel_values": image(model.config)}
    ids = token_ids(model.config)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return inputs


def _text_and_image(model: Any) -> dict[str, Tensor]:
    ids = token_ids(model.config.text_config)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": image(model.config.vision_config)}


def _with_image_tokens(model: Any, n_image_tokens: int) -> dict[str, Tensor]:
    """Two tokens of text, the image tokens, the rest of the text."""
    ids = token_ids(model.config)
    placeholder = torch.full((1, n_image_tokens), model.config.image_token_id)
    ids = torch.cat([ids[:, :2], placeholder, ids[:, 2:]], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _llava(model: Any) -> dict[str, Tensor]:
    vision = model.config.vision_config
    n_tokens = (vision.image_size // vision.patch_size) ** 2 + (model.config.vision_feature_select_strategy == "full")
    return {**_with_image_tokens(model, n_tokens), "pixel_values": image(vision)}


def _gemma3(model: Any) -> dict[str, Tensor]:
    inputs = _with_image_tokens(model, model.config.mm_tokens_per_image)
    is_image = (inputs["input_ids"] == model.config.image_token_id).long()
    return {**inputs, "token_type_ids": is_image, "pixel_values": image(model.config.vision_config)}


def _qwen_vl(model: Any) -> dict[str, Tensor]:
    """An image of four attention windows, where the vision tower attends in windows; else of four merged patches."""
    vision = model.config.vision_config
    window = getattr(vision, "window_size", vision.patch_size * vision.spatial_merge_size) // vision.patch_size
    side = 2 * window
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(side * side, width, generator=_generator())
    inputs = _with_image_tokens(model, (side // vision.spatial_merge_size) ** 2)
    is_image = (inputs["input_ids"] == model.config.image_token_id).long()
    return {
        **inputs,
        "mm_token_type_ids": is_image,
        "pixel_values": patches,
        "image_grid_thw": torch.tensor([[1, side, side]]),
    }


_INPUTS = {
    "clip": _text_and_image,
    "siglip": _text_and_image,
    "llava": _llava,
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen_vl,
    "qwen2_vl": _qwen_vl,
}
