"""What chosen keys get of each query: O(T d) beside the attention itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.backends.primitives import Primitives
from interp.kernels.errors import InterpError
from interp.kernels.problem import Problem
from interp.kernels.statistics.base import Kind, Needs, Part, Reader, RowStatistic, blank_padding, of_heads, unfit
from interp.kernels.statistics.reading import pattern_at
from interp.kernels.statistics.targets import Chain, Targets, columns
from interp.kernels.variants.base import Variant


@dataclass(frozen=True, eq=False)
class TargetedMass(RowStatistic):
    """What each query gives to its own target, or to all of its targets together.

    `interp.kernels.statistics.targets` makes targets from token ids: induction, duplicate token, a needle, ...

    Args:
        targets: an index of a key for each query, -1 for none: [batch, query_pos], [batch, head, query_pos] or, with
            several a query, [batch, head, query_pos, target]; 1 for head means all heads alike. A `Chain` of keys.

    Raises:
        InterpError: E206, targets that are no whole numbers or have other axes; E205, one key twice for one query.
    """

    name: ClassVar[str] = "targeted-mass"
    kind: ClassVar[Kind] = "targeted"
    formula: ClassVar[str] = "sum_{t in targets(i)} p_it"
    high: ClassVar[float] = 1.0

    targets: Tensor | Chain

    def __post_init__(self) -> None:
        if isinstance(self.targets, Chain):
            return
        if self.targets.is_floating_point() or self.targets.dtype == torch.bool or self.targets.ndim not in (2, 3, 4):
            raise InterpError(
                "E206",
                f"targets is {list(self.targets.shape)} of {self.targets.dtype}",
                fix="whole numbers [batch, query_pos] or [batch, head, query_pos] or [batch, head, query_pos, target]",
            )
        if self.targets.ndim == 4:
            ordered = self.targets.sort(-1).values
            if bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()):
                raise InterpError("E205", "targets name one key twice for one query", fix="each once, then -1")

    @property
    def each(self) -> Targets:
        """Targets with all four axes, or their chain."""
        if isinstance(self.targets, Chain):
            return self.targets
        if self.targets.ndim == 4:
            return self.targets
        return self.targets[:, None, :, None] if self.targets.ndim == 2 else self.targets[..., None]

    def check(self, problem: Problem, variant: Variant) -> str | None:
        if isinstance(self.targets, Chain):
            shape, sizes = tuple(self.targets.step.shape), (problem.batch, problem.n_queries)
            fits = shape == sizes and problem.n_keys == problem.n_queries
            return None if fits else f"a chain over {list(shape)} tokens in {problem.n_queries} queries"
        if int(self.targets.max()) >= problem.n_keys or int(self.targets.min()) < -1:
            return f"targets run from {int(self.targets.min())} to {int(self.targets.max())} in {problem.n_keys} keys"
        assert isinstance(self.each, Tensor)
        return unfit("targets", self.each[..., 0], (problem.batch, problem.n_heads, problem.n_queries))

    def of(self, part: Part) -> Float[Tensor, "batch head row"]:
        problem, total = part.view.problem, part.pattern.new_zeros(part.pattern.shape[:3])
        for one in columns(self.each):
            keys = of_heads(one, problem).expand(problem.q.shape[:3])[part.where][..., None]
            total += (part.pattern.gather(-1, keys.clamp(min=0)) * (keys >= 0))[..., 0]
        return total

    def ask(self, needs: Needs, problem: Problem, variant: Variant) -> Reader:
        request = needs.request

        def read(answer: Primitives) -> Tensor:
            total = torch.zeros_like(answer.lse)
            for one in columns(self.each):
                total += pattern_at(request, answer.lse, of_heads(one, problem))
            return blank_padding(total, problem)

        return read
