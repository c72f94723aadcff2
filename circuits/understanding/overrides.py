"""Where heads are made to look: at a role of the task, as in another run, or everywhere alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.edits import Cells, Positions
from interp.hooks.interventions import Ablate, Intervention, Patch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.reference import Reference, paired_reference
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@runtime_checkable
class Override(Protocol):
    """A pattern for any head, on the prompts that it was made for."""

    @property
    def queries(self) -> Positions:
        """From where heads are overridden, as in `Patch`."""

    @property
    def says(self) -> str:
        """What heads do under it."""

    def __call__(self, heads: Sequence[HeadId]) -> Intervention:
        """These heads with that pattern."""


@dataclass(frozen=True, eq=False)
class LookAt:
    """Heads look at the tokens of one role and at nothing else, at all of them alike.

    Attributes:
        role: of the prompts' spans; its tokens stand before the queries.
        queries: from where: 'end', a role or token positions.

    Raises:
        InterpError: E313 no such role, or a query that stands before it.
    """

    model: HookedModel
    batch: Batch
    role: str
    queries: str | Cells = "end"

    def __post_init__(self) -> None:
        queries = self._where(self.queries)
        for row, (at, span) in enumerate(zip(queries, self._where(self.role), strict=True)):
            if max(span) > min(at):
                what = f"{self.role!r} at {max(span)} stands behind the query at {min(at)}"
                raise InterpError("E313", what, where=f"prompt {row}", fix="choose queries that can see it")

    def _where(self, positions: str | Cells) -> Sequence[tuple[int, ...]]:
        """Token positions in each prompt."""
        if positions == "end":
            return [(end,) for end in self.batch.end.tolist()]
        if not isinstance(positions, str):
            return [(positions,) if isinstance(positions, int) else tuple(positions)] * self.batch.size
        if positions not in self.batch.spans:
            raise InterpError("E313", f"no position is called {positions!r}", fix=suggest(positions, self.batch.spans))
        return self.batch.spans[positions]

    @property
    def says(self) -> str:
        return f"look at {self.role}"

    @cached_property
    def row(self) -> Float[Tensor, "batch key_pos"]:
        """What each query attends to."""
        assert self.batch.mask is not None, "a role is of a text"
        found = torch.zeros(self.batch.mask.shape)
        for row, span in enumerate(self._where(self.role)):
            found[row, list(span)] = 1 / len(span)
        return found

    def __call__(self, heads: Sequence[HeadId]) -> Intervention:
        width = self.row.shape[1]
        values = {
            point_name("attn.hook_pattern", layer): self.row[:, None, None].expand(-1, n, width, -1)
            for layer, n in enumerate(self.model.heads[""])
            if any(head.layer == layer for head in heads)
        }
        return Patch("pattern", Reference(values, self.says, paired=True), heads=tuple(heads), positions=self.queries)


@dataclass(frozen=True, eq=False)
class AsIn:
    """Heads look where they look in a donor run, prompt by prompt.

    Attributes:
        donor: as many prompts, of the same width.
        queries: from where, as in `Patch`.
        name: of the donor, in words.
    """

    model: HookedModel
    donor: Batch
    queries: Positions = "end"
    name: str = "the donor run"
    batch_size: int = 32

    @property
    def says(self) -> str:
        return f"look as in {self.name}"

    def __call__(self, heads: Sequence[HeadId]) -> Intervention:
        return Patch("pattern", self._source, heads=tuple(heads), positions=self.queries)

    @cached_property
    def _source(self) -> Reference:
        parts = (self.donor.rows(start, stop) for start, stop in batches(self.donor.size, self.batch_size))
        return paired_reference(self.model, parts, "blocks.*.attn.hook_pattern", self.name)


@dataclass(frozen=True, eq=False)
class Uniform:
    """Heads look at all tokens that they may see alike."""

    queries: Positions = "end"

    @property
    def says(self) -> str:
        return "look everywhere alike"

    def __call__(self, heads: Sequence[HeadId]) -> Intervention:
        return Ablate(tuple(heads), "uniform", positions=self.queries)
