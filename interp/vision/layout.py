"""Where patches of a picture stand among the tokens of a vision tower, as its configuration tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from torch import nn

from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Grid = Int[np.ndarray, "row col"]
Cells = Int[np.ndarray, "cell_row cell_col"]

STACK = ("encoder", "layers", "layer", "blocks", "transformer", "resblocks")
SPECIAL = {
    "cls_token": "cls",
    "class_embedding": "cls",
    "class_token": "cls",
    "distillation_token": "distillation",
    "register_tokens": "register",
    "storage_tokens": "register",
}
"""Parameters that stand as tokens of their own, in the order in which towers put them."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What is expected of a tower, before it is proven.

    Attributes:
        order: number of each patch among the patches, as the tower reads them.
        rows_of_input: of pictures that are given as rows of patches, the row of each patch; None where pixels are given.
        patch: height and width of a patch in pixels.
        merge: patches a side that the tower itself joins to one image token; 1 where it joins none.
    """

    order: Grid
    rows_of_input: Grid | None
    patch: tuple[int, int]
    merge: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.order.shape[0], self.order.shape[1]


def layout_of(model: HookedModel, tower: str, batch: Batch) -> Layout:
    """The layout of the pictures of a batch, all of one size.

    Raises:
        InterpError: E314 no picture; E205 pictures of several sizes; E403 a tower whose patches are not known.
    """
    pixels = batch.inputs.get("pixel_values")
    if pixels is None:
        raise InterpError("E314", "no picture in this batch", fix="give prompts with pictures")
    config = tower_config(model, tower)
    patch = _pair(getattr(config, "patch_size", None), model)
    grids = batch.inputs.get("image_grid_thw")
    if grids is not None:
        return _merged(model, config, grids.tolist(), patch)
    if pixels.ndim != 4:
        what = f"pictures of shape {tuple(pixels.shape)} are no batch of one size"
        raise InterpError("E403", what, where=model.name, fix="models that cut a picture into several are not known")
    height, width = pixels.shape[-2:]
    if height % patch[0] or width % patch[1]:
        what = f"{height} x {width} pixels are no whole number of patches of {patch[0]} x {patch[1]}"
        raise InterpError("E206", what, where=model.name, fix="resize the pictures")
    order = np.arange(height // patch[0] * (width // patch[1])).reshape(height // patch[0], -1)
    return Layout(order, None, patch, 1)


def _merged(model: HookedModel, config: Any, grids: list[list[int]], patch: tuple[int, int]) -> Layout:
    """Towers that read patches block by block, and blocks window by window (Qwen2-VL, Qwen2.5-VL)."""
    if any(grid != grids[0] for grid in grids) or grids[0][0] != 1:
        what = "pictures of several sizes, or several frames"
        raise InterpError("E205", what, where=model.name, fix="one batch for each size")
    _, rows, cols = grids[0]
    merge = int(config.spatial_merge_size)
    window = getattr(config, "window_size", None)
    side = None if window is None else max(1, window // merge // patch[0])
    return Layout(block_order(rows, cols, merge, side), block_order(rows, cols, merge, None), patch, merge)


def block_order(rows: int, cols: int, merge: int, window: int | None) -> Grid:
    """Number of each patch where blocks of `merge` x `merge` follow one another, row by row, in windows of `window` blocks.

    Inside a block patches follow row by row.
    """
    row, col = np.divmod(np.arange(rows * cols), cols)
    block_row, block_col = row // merge, col // merge
    keys = [col % merge, row % merge, block_col, block_row]
    if window is not None:
        keys += [block_col // window, block_row // window]
    order = np.empty(rows * cols, dtype=np.int64)
    order[np.lexsort(keys)] = np.arange(rows * cols)
    return order.reshape(rows, cols)


def root_of(model: HookedModel, tower: str) -> tuple[str, nn.Module]:
    """Path and module of a tower: what holds its embeddings and layers."""
    adapter: Any = model.adapter
    parts = adapter.towers[tower].path.split(".")
    while parts and parts[-1] in STACK:
        parts.pop()
    path = ".".join(parts)
    return path, adapter.model.get_submodule(path)


def tower_config(model: HookedModel, tower: str) -> Any:
    """Configuration of the module that a tower is."""
    config: Any = getattr(root_of(model, tower)[1], "config", None) or model.adapter.config  # type: ignore[attr-defined]
    return getattr(config, "vision_config", config)


def special_tokens(model: HookedModel, tower: str, places: list[int]) -> dict[str, tuple[int, ...]]:
    """Names of the tokens that show no patch; 'other' where they are not those that the tower's parameters tell."""
    counts: dict[str, int] = {}
    named = [(name.rsplit(".", 1)[-1], value) for name, value in root_of(model, tower)[1].named_parameters()]
    for wanted, kind in SPECIAL.items():
        found = [value.numel() // value.shape[-1] for name, value in named if name == wanted]
        if found and kind not in counts:
            counts[kind] = found[0]
    if sum(counts.values()) != len(places):
        return {"other": tuple(places)} if places else {}
    left = iter(places)
    return {kind: tuple(next(left) for _ in range(count)) for kind, count in counts.items()}


def image_token(config: Any) -> int | None:
    """Id of the tokens that a picture's vectors replace; None for models without."""
    names = ("image_token_id", "image_token_index")
    return next((int(value) for name in names if (value := getattr(config, name, None)) is not None), None)


def image_positions(batch: Batch, config: Any, row: int) -> Int[np.ndarray, " image_token"]:
    """Positions of the image tokens of one prompt.

    Raises:
        InterpError: E314, a prompt without any.
    """
    found = np.flatnonzero(batch.input_ids[row].cpu().numpy() == image_token(config))
    if not len(found):
        raise InterpError("E314", "a prompt without image tokens", where=f"prompt {row}", fix="give it a picture")
    return found


def _pair(size: Any, model: HookedModel) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    what = f"the configuration of {model.name} has no patch size that we understand: {size!r}"
    raise InterpError("E403", what, where=model.name, fix="towers that cut pictures into one grid of patches are known")
