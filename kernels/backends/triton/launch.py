"""Where kernels run, in which tiles, and what their tensors look like to them.

Triton decides between compiling and interpreting when it is first imported, from TRITON_INTERPRET. Nothing here
imports it before a kernel is launched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from interp.kernels.errors import InterpError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

SHARED_BYTES = 227 << 10
"""Shared memory of a Hopper multiprocessor that one program may take."""

INTERPRETED_PROCESSORS = 4
"""Stands in for the number of multiprocessors where there are none."""


@dataclass(frozen=True)
class Tile:
    """How a kernel cuts its work: `rows` of queries by `keys`, on so many warps, so many loads ahead."""

    rows: int
    keys: int
    warps: int = 4
    stages: int = 2

    def bytes(self, width: int, itemsize: int) -> int:
        """Shared memory for the queries and for all keys and values that are under way, d_head + d_value = `width`."""
        return itemsize * width * (self.rows // 2 + self.keys * self.stages)

    @property
    def exact(self) -> Tile:
        """For float32, whose products are not the matrix unit's: larger tiles spill registers."""
        return Tile(min(self.rows, 32), min(self.keys, 32), 4, 1)


def interpreting() -> bool:
    """Whether kernels are (or, where triton is not imported yet, will be) run by the interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def unusable(device: torch.device) -> str | None:
    """Why no kernel can run on tensors of a device; None where one can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cuda":
        return None
    if device.type == "cpu" and interpreting():
        return None
    return f"triton needs a CUDA device, tensors are on {device.type} (TRITON_INTERPRET=1 runs kernels there, slowly)"


def require(device: torch.device) -> None:
    """Raises the error of a device on which no kernel can run.

    Raises:
        InterpError: E601.
    """
    if reason := unusable(device):
        raise InterpError("E601", reason, fix="backend='auto' takes one that can")


def stored(dtype: torch.dtype) -> torch.dtype:
    """In which dtype a kernel stores what is wanted in another: the interpreter cuts bfloat16 off, unrounded."""
    return torch.float32 if interpreting() else dtype


def processors(device: torch.device) -> int:
    """Programs that a device runs at once, at one for each multiprocessor."""
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def padded(size: int, least: int = 16) -> int:
    """The power of two that holds `size`; `tl.dot` takes none under 16."""
    return max(least, 1 << (size - 1).bit_length())


def strides(x: Tensor) -> tuple[int, ...]:
    """Strides for reading: 0 along axes of size 1, which stand for every batch element or head."""
    return tuple(0 if size == 1 else step for size, step in zip(x.shape, x.stride(), strict=True))


def named(names: tuple[str, ...], values: tuple[int, ...]) -> dict[str, int]:
    """Arguments from their names and values, one each."""
    return dict(zip(names, values, strict=True))


def launch(kernel: Any, grid: Any, device: torch.device, arguments: dict[str, Any]) -> None:
    """Starts the programs of a grid on a device; products and sums are fused, whatever triton's own default is."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](**arguments, enable_fp_fusion=True)


class Tuned:
    """A kernel that takes its tile from the fastest of a few; the first of them where nothing can be timed.

    Args:
        kernel: takes the constants ROWS and KEYS.
        key: names of the arguments on which the choice depends.
        tiles: candidates.
    """

    def __init__(self, kernel: Any, key: Sequence[str], tiles: Sequence[Tile]) -> None:
        self.kernel, self.key, self.tiles = kernel, list(key), tuple(tiles)
        self._searches: dict[tuple[Tile, ...], Any] = {}

    def __call__(
        self,
        grid: Callable[[int, int], tuple[int, ...]],
        device: torch.device,
        arguments: dict[str, Any],
        *,
        width: int,
        itemsize: int,
        tile: Tile | None = None,
    ) -> None:
        """Launches the kernel; does nothing where the grid is empty.

        Args:
            grid: programs along each axis, from the rows and keys of a tile.
            width, itemsize: numbers that a key and its value hold, and the bytes of one.
            tile: the one to take instead of searching.
        """
        if 0 in grid(1, 1):
            return
        fitting = tuple(tile for tile in self.tiles if tile.bytes(width, itemsize) <= SHARED_BYTES) or self.tiles[:1]
        if tile is None and (interpreting() or itemsize == 4):
            tile = fitting[0]
        if tile is None:
            launch(self._search(fitting), lambda meta: grid(meta["ROWS"], meta["KEYS"]), device, arguments)
            return
        if itemsize == 4 and not interpreting():
            tile = tile.exact
        sizes = {"ROWS": tile.rows, "KEYS": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages}
        launch(self.kernel, grid(tile.rows, tile.keys), device, {**arguments, **sizes})

    def _search(self, tiles: tuple[Tile, ...]) -> Any:
        if tiles not in self._searches:
            import triton

            configs = [
                triton.Config({"ROWS": tile.rows, "KEYS": tile.keys}, num_warps=tile.warps, num_stages=tile.stages)
                for tile in tiles
            ]
            self._searches[tiles] = triton.autotune(configs, key=self.key, cache_results=True)(self.kernel)
        return self._searches[tiles]


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit` for type checkers, to which triton's own has no type."""
    import triton

    return triton.jit(function)
