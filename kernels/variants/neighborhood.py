"""Softmax attention to a neighbourhood on a line or a grid, with the border rule of NATTEN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem, View
from interp.kernels.variants.grid import coordinates, wrong_grid
from interp.kernels.variants.lengths import lengths
from interp.kernels.variants.rowwise import Span
from interp.kernels.variants.softmax import Softmax


@dataclass(frozen=True)
class Axis:
    """The neighbourhood along one axis.

    Coordinates with the same remainder modulo `dilation` form a group, and see nothing of other groups. Inside a group
    of n cells, the `stride` cells of a tile share the neighbours of one of them, their leader: `window` cells around
    it, moved inwards at the border so that they stay `window`; or, where causal, those up to the cell itself that are
    at most `window - 1` before the leader. A group shorter than the window is seen whole.
    """

    window: int
    stride: int
    dilation: int
    causal: bool

    def bounds(
        self, cell: Int[Tensor, "*axes"], length: Int[Tensor, "*#axes"]
    ) -> tuple[Int[Tensor, "*axes"], Int[Tensor, "*axes"]]:
        """First neighbour, and one after the last, inside the group; of cells on an axis of this length."""
        place, last = cell // self.dilation, self.group(cell, length) - 1
        tile = place // self.stride * self.stride
        if self.causal:
            return torch.minimum(tile + self.stride - 1, last) - self.window + 1, place + 1
        leader = torch.minimum(tile + self.stride // 2, last)
        right = self.window // 2 + self.window % 2 - 1
        centre = torch.minimum(leader.clamp(min=self.window // 2), last - right)
        return centre - self.window // 2, centre + right + 1

    def group(self, cell: Int[Tensor, "*axes"], length: Int[Tensor, "*#axes"]) -> Int[Tensor, "*axes"]:
        """How many cells the group of each cell has."""
        return (length - cell % self.dilation + self.dilation - 1) // self.dilation

    def seen(self, query: Tensor, key: Tensor, length: Tensor) -> Tensor:
        """Whether keys are neighbours; query, key and length broadcast."""
        low, high = self.bounds(query, length)
        place = key // self.dilation
        return (query % self.dilation == key % self.dilation) & (place >= low) & (place < high)

    def table(self, length: int) -> tuple[Int[Tensor, "cell window"], Bool[Tensor, "cell window"]]:
        """Neighbours of every cell, and which of the entries are any."""
        cell, whole = torch.arange(length), torch.tensor(length)
        low, high = self.bounds(cell, whole)
        place = low[:, None] + torch.arange(self.window)
        there = (place >= 0) & (place < high[:, None])
        return torch.where(there, place * self.dilation + (cell % self.dilation)[:, None], 0), there


@dataclass(frozen=True, eq=False)
class Neighborhood(Softmax):
    """Neighborhood attention, generalised: window, stride and dilation along each axis (see `Axis`).

    Stride 1 is plain neighborhood attention, stride = window attention in blocks, in between the generalised kind.
    NATTEN refuses axes shorter than window x dilation; here what there is of a group is seen.

    Args:
        window, stride, dilation: one for all axes or one an axis.
        grid: cells along each axis, row by row; by default tokens stand on a line as long as their document.
        causal: along every axis, and no token sees a later one at all.
        causal_axes: the axes that are causal, where that is not the same for all.
        extra: leading tokens off the grid ([CLS], registers); they see all and are seen by all.

    Raises:
        InterpError: E205, a stride beyond the window, any number under 1, as many of them as there are no axes, documents
            that do not fill the grid, `causal` with axes that are not.
    """

    name: ClassVar[str] = "neighborhood"
    source: ClassVar[str] = "Hassani et al. 2023, arXiv 2204.07143; 2025, arXiv 2504.16922 (strides); rule as in NATTEN"

    causal: bool = False
    window: int | Sequence[int] = 7
    stride: int | Sequence[int] = 1
    dilation: int | Sequence[int] = 1
    grid: tuple[int, ...] | None = None
    causal_axes: Sequence[bool] | None = None
    extra: int = 0

    def __post_init__(self) -> None:
        for axis in self.axes:
            if min(axis.window, axis.stride, axis.dilation) < 1 or axis.stride > axis.window:
                raise InterpError("E205", f"{axis}", fix="1 or more each, and no stride beyond the window")
            if self.causal and not axis.causal:
                raise InterpError("E205", "causal with an axis that is not", fix="leave out causal or causal_axes")
        if self.extra < 0 or min(self.grid or (1,)) < 1:
            raise InterpError(
                "E205", f"grid={self.grid}, extra={self.extra}", fix="cells on each axis; 0 extra or more"
            )

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The neighbourhood along each axis."""
        count = 1 if self.grid is None else len(self.grid)
        causal = self.causal if self.causal_axes is None else self.causal_axes
        given = [_each(values, count) for values in (self.window, self.stride, self.dilation, causal)]
        return tuple(
            Axis(window, stride, dilation, bool(order)) for window, stride, dilation, order in zip(*given, strict=True)
        )

    @property
    def looks_ahead(self) -> str:
        if not all(axis.causal for axis in self.axes):
            return "neighbours lie on both sides of some axis"
        if self.extra and not self.causal:
            return "extra tokens see the whole grid"
        if self.grid is None and any(axis.stride > 1 for axis in self.axes):
            return "the last tile of a text has its leader at the end"
        return ""

    def check(self, problem: Problem) -> str | None:
        if problem.n_queries > problem.n_keys:
            return "queries stand nowhere among the keys"
        return None if self.grid is None else wrong_grid(problem, self.grid, self.extra)

    def seen(self, view: View) -> Bool[Tensor, "#batch #head row key_pos"]:
        off = (view.query < self.extra) | (view.key < self.extra)
        return off | self._on_grid(view)

    def _on_grid(self, view: View) -> Bool[Tensor, "batch 1 row key_pos"]:
        query, key = view.query - self.extra, view.key - self.extra
        if self.grid is None:
            return self.axes[0].seen(query, key, self._line(view.problem)[:, None, view.rows, None])
        near = torch.ones_like(query == key)
        places = zip(self.axes, self.grid, coordinates(query, self.grid), coordinates(key, self.grid), strict=True)
        for axis, size, of_query, of_key in places:
            near = near & axis.seen(of_query, of_key, query.new_tensor(size))
        return near

    def _line(self, problem: Problem) -> Int[Tensor, "batch query_pos"]:
        return (lengths(problem) - self.extra).clamp(min=1)

    def span(self, at: Int[Tensor, "batch 1 query_pos"], problem: Problem) -> Span | str:
        if len(self.axes) > 1 or self.axes[0].dilation > 1:
            return "a neighbourhood on a grid, or with dilation, is no interval of keys"
        line = self._line(problem) if self.grid is None else at[:, 0].new_full(at[:, 0].shape, self.grid[0])
        low, high = self.axes[0].bounds((at - self.extra).clamp(min=0), line[:, None])
        off = at < self.extra
        low = torch.where(off, 0, low.clamp(min=0) + self.extra)
        return Span(
            low=low, high=torch.where(off, problem.n_keys, high + self.extra), stop=at.new_full((1, 1, 1), self.extra)
        )

    def neighbours(self, length: int) -> tuple[Int[Tensor, "cell slot"], Bool[Tensor, "cell slot"]]:
        """The cells that each cell sees, as an index table for gathers, and which of its entries count.

        Cells are counted without the extra tokens; there are as many slots as cells in a window.

        Args:
            length: of the line; the cells of the grid where there is one.

        Raises:
            InterpError: E205, a length that is not that of the grid.
        """
        grid = (length,) if self.grid is None else self.grid
        if prod(grid) != length:
            raise InterpError("E205", f"{length} cells of a grid of {grid}", fix=f"length={prod(grid)}")
        index, there = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        for axis, size in zip(self.axes, grid, strict=True):
            cells, real = axis.table(size)
            index = (index[:, None, :, None] * size + cells[None, :, None, :]).flatten(2).flatten(0, 1)
            there = (there[:, None, :, None] & real[None, :, None, :]).flatten(2).flatten(0, 1)
        return index, there


def _each(values: int | bool | Sequence[int] | Sequence[bool], count: int) -> Sequence[int]:
    given = [values] * count if isinstance(values, int) else list(values)
    if len(given) != count:
        raise InterpError("E205", f"{len(given)} values for {count} axes: {given}", fix="one for all axes, or one each")
    return given
