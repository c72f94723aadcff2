"""From operators and statistics to a request for a fused kernel, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.kernels.backends.base import Answer, Asked
from interp.kernels.backends.primitives import Primitives, Request
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Needs, Reader
from interp.kernels.variants.base import Variant


@runtime_checkable
class Kernel(Protocol):
    """A module that answers requests."""

    def supports(self, request: Request) -> str | None:
        """Why it can't answer this request; None where it can."""
        ...

    def run(self, request: Request) -> Primitives: ...


@dataclass(frozen=True)
class Fused:
    """A kernel as a backend: it takes the operators whose problem it can be asked about, and the statistics that follow
    from its answer."""

    name: str
    kernel: Kernel
    differentiable = False

    def refuses(self, problem: Problem, variant: Variant, asked: Asked) -> str | None:
        wanted = once_requested(problem, variant, asked)
        return wanted if isinstance(wanted, str) else self.kernel.supports(wanted[0])

    def run(self, problem: Problem, variant: Variant, asked: Asked) -> Answer:
        wanted = once_requested(problem, variant, asked)
        assert not isinstance(wanted, str)
        request, readers = wanted
        answer = self.kernel.run(request)
        assert answer.output is not None
        factor = variant.factor(problem, answer.lse)
        output = answer.output if factor is None else (answer.output * factor[..., None]).to(problem.v.dtype)
        lse = answer.lse if request.rule == "softmax" else None
        return Answer(output, lse, {label: read(answer) for label, read in readers.items()}, answer.notes)


def once_requested(problem: Problem, variant: Variant, asked: Asked) -> tuple[Request, dict[str, Reader]] | str:
    """`request_of`, shared by the kernels that are asked in turn."""
    return problem.once((variant, *asked.items()), lambda own: request_of(own, variant, asked))


def request_of(problem: Problem, variant: Variant, asked: Asked) -> tuple[Request, dict[str, Reader]] | str:
    """What to ask a kernel, and how to read each statistic from its answer; or why it can't be asked."""
    request = variant.request(problem)
    if isinstance(request, str):
        return request
    request = _grouped(request, problem)
    needs = Needs(request)
    readers = {}
    for label, statistic in asked.items():
        reader = statistic.ask(needs, problem, variant)
        if reader is None:
            return f"{statistic.name} needs whole rows of the pattern"
        readers[label] = reader
    return _with(request, needs), readers


def _grouped(request: Request, problem: Problem) -> Request:
    """Some heads of a model need not come in whole groups: then each gets its own copy of its keys and values."""
    group = max(1, problem.heads // problem.k.shape[1])
    if problem.kv_index == [head // group for head in range(problem.heads)] and problem.heads % problem.k.shape[1] == 0:
        return request
    return replace(request, k=request.k[:, problem.kv_index], v=request.v[:, problem.kv_index])


def _with(request: Request, needs: Needs) -> Request:
    return replace(
        request,
        entropy=needs.entropy,
        largest=needs.largest,
        squares=needs.squares,
        functionals=_stacked(needs.functionals, -1),
        band=_bands(needs.bands),
        columns=_stacked(needs.columns, 2),
    )


def _stacked(pieces: list[Tensor], axis: int) -> Tensor | None:
    """Pieces of [#batch #head length] side by side on a new axis."""
    return torch.stack([piece.float() for piece in torch.broadcast_tensors(*pieces)], axis) if pieces else None


def _bands(pieces: list[Tensor]) -> Tensor | None:
    """Weightings by distance as one table; shorter ones are 0 beyond their end."""
    if not pieces:
        return None
    table = pieces[0].new_zeros(len(pieces), max(len(piece) for piece in pieces), dtype=torch.float32)
    for row, piece in zip(table, pieces, strict=True):
        row[: len(piece)] = piece
    return table
