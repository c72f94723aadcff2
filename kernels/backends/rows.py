"""Any operator and any statistic, from rows of effective weights: all at once, or block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.kernels.backends.base import Answer, Asked
from interp.kernels.problem import Problem, View
from interp.kernels.statistics.base import Part
from interp.kernels.variants.base import Variant


class Eager:
    """All heads' weights at once, with gradients: the oracle."""

    name = "eager"
    differentiable = True

    def refuses(self, problem: Problem, variant: Variant, asked: Asked) -> str | None:
        return None

    def run(self, problem: Problem, variant: Variant, asked: Asked) -> Answer:
        return by_blocks(problem, variant, asked, [problem.view()])


def by_blocks(problem: Problem, variant: Variant, asked: Asked, views: list[View]) -> Answer:
    """Runs through the views, which together are all heads and rows, and counts each in."""
    totals = {label: statistic.begin(problem) for label, statistic in asked.items()}
    outputs: list[Tensor] = []
    lses: list[Tensor | None] = []
    for view in views:
        part = Part(view, variant.weights(view))
        output = torch.matmul(part.weights.values, view.v)
        output = output if part.weights.side is None else output + part.weights.side
        outputs.append(output.to(problem.v.dtype))
        lses.append(part.weights.lse)
        for label, statistic in asked.items():
            statistic.add(totals[label], part)
    return Answer(
        _placed(outputs, views, problem),
        None if lses[0] is None else _placed([lse for lse in lses if lse is not None], views, problem),
        {label: statistic.finish(totals[label], problem) for label, statistic in asked.items()},
    )


def _placed(pieces: list[Tensor], views: list[View], problem: Problem) -> Tensor:
    """Pieces of rows as one tensor [batch head query_pos ...]; a single piece stays itself, with its gradients."""
    if len(pieces) == 1:
        return pieces[0]
    whole = pieces[0].new_empty((problem.batch, problem.heads, problem.n_queries, *pieces[0].shape[3:]))
    for piece, view in zip(pieces, views, strict=True):
        whole[:, view.heads, view.rows] = piece
    return whole
