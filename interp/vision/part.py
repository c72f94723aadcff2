"""The part of a model that sees, opened by itself over the same weights."""

from __future__ import annotations

from typing import Any

from interp.hooks.batch import Batch
from interp.hooks.model import HookedModel
from interp.kernels.errors import InterpError
from interp.vision.layout import root_of


def seeing_part(model: HookedModel) -> HookedModel:
    """The vision tower as a model of its own: it reads pictures alone, and its heads are those of the main tower.

    The weights are shared, nothing is copied. A model that reads pictures alone is given back as it is.

    Raises:
        InterpError: E205, a model that reads no pictures; E401, a tower that cannot run alone.
    """
    tower = model.adapter.seeing_tower
    if tower is None:
        raise InterpError("E205", f"no part of {model.name} reads pictures", fix="choose a model that sees")
    if tower == "":
        return model
    path, module = root_of(model, tower)
    if getattr(module, "main_input_name", None) != "pixel_values":
        what = f"{path} of {model.name} cannot run alone"
        raise InterpError("E401", what, where=model.name, fix="score its heads inside the whole model")
    images: Any = getattr(model.processor, "image_processor", None)
    return HookedModel.from_hf(module, processor=images, name=f"{model.name}.{tower}")


def pictures_alone(batch: Batch) -> Batch:
    """The pictures of a batch, without the text.

    Raises:
        InterpError: E314, no picture.
    """
    if "pixel_values" not in batch.inputs:
        raise InterpError("E314", "no picture in this batch", fix="give prompts with pictures")
    return Batch({"pixel_values": batch.inputs["pixel_values"]})
