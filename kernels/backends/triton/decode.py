"""Few queries, many keys: the keys are shared out over programs, and the partial softmaxes merged.

A program for each head would leave most of a GPU idle while one query is decoded. Here each takes all query heads of
one kv head, which read the same keys, and a part of these (Sanovar et al. 2024, LeanAttention, arXiv 2405.10480).
"""

from __future__ import annotations

import torch

from interp.kernels.backends.merge import Partial, merge_stacked
from interp.kernels.backends.primitives import Primitives
from interp.kernels.backends.triton.launch import processors
from interp.kernels.backends.triton.problem import Problem
from interp.kernels.backends.triton.row_pass import FUNCTIONALS, launch_forward, means_of

ROWS = 64
"""Rows of all heads of a kv head up to which the keys are shared out."""

PART = 64
"""Least keys of a part."""


def parts_for(problem: Problem) -> int:
    """Into how many parts to cut the keys; 1 where cutting them gains nothing."""
    request = problem.request
    batch, head, query_pos = problem.size
    columns = request.functionals
    if query_pos * problem.group > ROWS or (
        columns is not None and (columns.shape[1] > 1 or columns.shape[3] > FUNCTIONALS)
    ):
        return 1
    programs = batch * head // problem.group
    return max(1, min(request.k.shape[2] // PART, 2 * processors(request.q.device) // max(programs, 1)))


def decode_pass(problem: Problem, parts: int) -> Primitives:
    """Output and row statistics, without bands and column sums, from so many parts of the keys."""
    found = launch_forward(problem, parts=parts, packed=True)
    state = Partial(
        m=found["out_lse"],
        mass=found["out_mass"],
        output=found.get("out"),
        entropy=found.get("out_entropy"),
        squares=found.get("out_squares"),
        argmax=found.get("out_argmax"),
        functionals=found.get("out_means"),
    )
    return finish(problem, merge_stacked(state))


def finish(problem: Problem, state: Partial) -> Primitives:
    """The answer that follows from the state after all keys."""
    request = problem.request
    seen = state.mass > 0
    mass = torch.where(seen, state.mass, 1)
    output, entropy, squares, means = state.output, state.entropy, state.squares, state.functionals
    if output is not None:
        factor = state.m.exp() if request.rule == "sigmoid" else 1 / mass
        output = (output * factor[..., None]).to(request.v.dtype)
    return Primitives(
        output=output,
        lse=state.lse,
        entropy=None if entropy is None else (mass.log() - entropy / mass).clamp(min=0),
        largest=torch.where(seen, 1 / mass, 0) if request.largest else None,
        argmax=state.argmax,
        squares=None if squares is None else squares / mass**2,
        functionals=None if means is None else means_of(problem, means, 0),
    )
