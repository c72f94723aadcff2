"""The forward kernel's launches: memory for its results, its arguments, its answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.backends.triton.blocks import BlockMask, no_lists
from interp.kernels.backends.triton.launch import Tile, named, padded, stored, strides
from interp.kernels.backends.triton.problem import Problem, pack_functionals, unpack_functionals

FUNCTIONALS = 21
"""Functionals of one launch: three columns each and one of ones fill 64."""


def forward_pass(problem: Problem, blocks: BlockMask | None = None) -> Primitives:
    """Output and row statistics, without bands and column sums."""
    found = launch_forward(problem, first=0, blocks=blocks)
    means = None
    if problem.request.functionals is not None:
        more = range(FUNCTIONALS, problem.request.functionals.shape[-1], FUNCTIONALS)
        sums = [found, *(launch_forward(problem, first=first, blocks=blocks) for first in more)]
        means = torch.cat([means_of(problem, one["out_means"][0], n * FUNCTIONALS) for n, one in enumerate(sums)], -1)
    output = _given(found, "out")
    return Primitives(
        output=None if output is None else output.to(problem.request.v.dtype),
        lse=found["out_lse"][0],
        entropy=_given(found, "out_entropy"),
        largest=_given(found, "out_mass"),
        argmax=_given(found, "out_argmax"),
        squares=_given(found, "out_squares"),
        functionals=means,
    )


def _given(found: dict[str, Tensor], name: str) -> Tensor | None:
    return found[name][0] if name in found else None


def functionals_from(problem: Problem, first: int) -> Tensor | None:
    """The functionals of one launch."""
    functionals = problem.request.functionals
    return None if functionals is None else functionals[..., first : first + FUNCTIONALS]


def means_of(problem: Problem, sums: Tensor, first: int) -> Tensor:
    """Means under the pattern of the functionals of one launch."""
    functionals = functionals_from(problem, first)
    assert functionals is not None
    return unpack_functionals(sums, functionals.shape[-1], problem.request.q.dtype)


def launch_forward(
    problem: Problem, *, first: int = 0, blocks: BlockMask | None = None, parts: int | None = None, packed: bool = False
) -> dict[str, Tensor]:
    """One launch of the forward kernel.

    Args:
        first: the functionals to begin with; launches for later ones compute nothing else.
        blocks: what to visit.
        parts: give the state after each of so many parts of the keys, rather than what follows from all of them.
        packed: take the queries of all heads that read one kv head together.

    Returns:
        What was asked, by the kernel's names, each with the parts as its first axis.
    """
    from interp.kernels.backends.triton.forward import forward

    request = problem.request
    batch, head, query_pos = problem.size
    flags = row_flags(problem) if first == 0 else dict.fromkeys(row_flags(problem), False)
    functionals = functionals_from(problem, first)
    columns = None if functionals is None else pack_functionals(functionals, request.q.dtype)
    results = _memory(problem, flags, 0 if columns is None else columns.shape[-1], parts)
    arguments = {
        **problem.arguments,
        **flags,
        **(no_lists(problem.empty) if blocks is None else blocks.lists()),
        **_values(problem),
        "functionals": problem.empty if columns is None else columns,
        **named(("means_batch", "means_head"), (0, 0) if columns is None else strides(columns)[:2]),
        "MEANS": 0 if columns is None else columns.shape[-1],
        "splits": parts or 1,
        "PARTIAL": parts is not None,
        "PACKED": packed,
        **{name: results.get(name, problem.empty) for name in RESULTS},
    }
    programs, rows = (head // problem.group, query_pos * problem.group) if packed else (head, query_pos)
    forward(
        lambda block, keys: (-(-rows // block) * (parts or 1), programs, batch),
        request.q.device,
        arguments,
        width=padded(request.q.shape[-1]) + padded(request.v.shape[-1]),
        itemsize=request.q.element_size(),
        tile=blocks.tile if blocks is not None else few_rows(rows) if packed else None,
    )
    return results


def few_rows(rows: int) -> Tile:
    """The tile for so few queries that a larger one would be mostly empty."""
    return Tile(min(padded(rows), 64), 64, 4, 3)


RESULTS = ("out", "out_lse", "out_mass", "out_entropy", "out_argmax", "out_squares", "out_means")


def row_flags(problem: Problem) -> dict[str, bool]:
    """What of a row is wanted."""
    request = problem.request
    return {
        "OUTPUT": request.output,
        "ENTROPY": request.entropy,
        "LARGEST": request.largest,
        "SQUARES": request.squares,
    }


def _values(problem: Problem) -> dict[str, Any]:
    v = problem.request.v
    names = ("v_batch", "v_head", "v_row", "v_column")
    return {"v": v, "DV": v.shape[-1], "DV_PADDED": padded(v.shape[-1]), **named(names, v.stride())}


def _memory(problem: Problem, flags: dict[str, bool], columns: int, parts: int | None) -> dict[str, Tensor]:
    """Memory for what is asked; an output in parts is kept in float32."""
    rows = (parts or 1, *problem.size)
    v = problem.request.v
    results = {"out_lse": problem.blank(*rows)}
    if flags["OUTPUT"]:
        results["out"] = problem.blank(*rows, v.shape[-1], dtype=stored(v.dtype) if parts is None else torch.float32)
    if flags["LARGEST"] or parts is not None:
        results["out_mass"] = problem.blank(*rows)
    if flags["LARGEST"]:
        results["out_argmax"] = problem.blank(*rows, dtype=torch.int32)
    if flags["ENTROPY"]:
        results["out_entropy"] = problem.blank(*rows)
    if flags["SQUARES"]:
        results["out_squares"] = problem.blank(*rows)
    if columns:
        results["out_means"] = problem.blank(*rows, columns)
    return results
