"""Attention in blocks of rows, in plain torch: nothing of T x T is stored, and no compiler is needed."""

from __future__ import annotations

from interp.kernels.backends import blockwise_kernel
from interp.kernels.backends.base import Answer, Asked
from interp.kernels.backends.fused import Fused, once_requested
from interp.kernels.backends.rows import by_blocks
from interp.kernels.problem import Problem, View
from interp.kernels.variants.base import Variant

CELLS = 2**21
"""Scores held at a time (8 MiB in float32): blocks of 256 rows at 8192 keys."""
LEAST_ROWS = 16


class Blockwise:
    """Some rows at a time, with all their keys.

    Operators and statistics that fused kernels can be asked for run on one written in torch; all others on rows of
    effective weights.
    """

    name = "blockwise"
    differentiable = False
    kernel = blockwise_kernel

    def refuses(self, problem: Problem, variant: Variant, asked: Asked) -> str | None:
        return None

    def run(self, problem: Problem, variant: Variant, asked: Asked) -> Answer:
        wanted = once_requested(problem, variant, asked)
        if isinstance(wanted, str) or blockwise_kernel.supports(wanted[0]):
            return by_blocks(problem, variant, asked, blocks(problem))
        return Fused(self.name, blockwise_kernel).run(problem, variant, asked)


def blocks(problem: Problem) -> list[View]:
    """Views of one head and some rows each, or of several heads where their rows are short."""
    cells = problem.batch * problem.n_keys
    rows = min(problem.n_queries, max(LEAST_ROWS, CELLS // cells))
    heads = max(1, min(problem.heads, CELLS // (cells * rows)))
    return [
        problem.view(slice(head, min(head + heads, problem.heads)), slice(row, min(row + rows, problem.n_queries)))
        for head in range(0, problem.heads, heads)
        for row in range(0, problem.n_queries, rows)
    ]
