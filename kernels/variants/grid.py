"""Pictures as sequences: where on a grid each token stands."""

from __future__ import annotations

from math import prod

from jaxtyping import Int
from torch import Tensor

from interp.kernels.problem import Problem
from interp.kernels.variants.lengths import lengths


def wrong_grid(problem: Problem, grid: tuple[int, ...], extra: int = 0) -> str | None:
    """Why the problem's documents are not `extra` tokens and then the cells of the grid, row by row."""
    if problem.n_queries > problem.n_keys or not problem.aligned:
        return "queries stand nowhere on the grid"
    found = lengths(problem)[problem.real_queries]
    wrong = found[found != extra + prod(grid)]
    if not wrong.numel():
        return None
    cells = " x ".join(map(str, grid)) + (f" and {extra} more" if extra else "")
    return f"a text of {int(wrong[0])} tokens is no grid of {cells}"


def coordinates(cell: Int[Tensor, "*axes"], grid: tuple[int, ...]) -> list[Int[Tensor, "*axes"]]:
    """Coordinates of cells that are counted row by row, one tensor an axis."""
    found = []
    for size in reversed(grid):
        found.append(cell % size)
        cell = cell // size
    return found[::-1]
