"""Prompts as tensors: what a forward takes, and which positions are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.kernels.errors import InterpError


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of inputs.

    Attributes:
        inputs: keyword arguments of the model's forward.
        mask: True on real tokens, False on padding; None for models without tokens.
        truncated: for each prompt, how many tokens were cut off.
        warnings: what the user should know about the way the prompts were read.
        tokenizer: digest of the tokenizer that made the ids; '' where they were given.
        spans: role -> for each prompt the token positions that play it.
        counts: input -> how many of its rows belong to each prompt, where that is not one.
        written: how many tokens at the end of every row the model wrote itself.
        start: tokens before it are in a cache of keys and values, and the forward computes the others alone.
        memory: what interventions keep from step to step of one cached generation; None elsewhere.
    """

    inputs: Mapping[str, Any]
    mask: Bool[Tensor, "batch pos"] | None = None
    truncated: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    tokenizer: str = ""
    spans: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    written: int = 0
    start: int = 0
    memory: dict[Any, Any] | None = None

    @property
    def size(self) -> int:
        return len(self.mask) if self.mask is not None else len(next(iter(self.inputs.values())))

    @property
    def input_ids(self) -> Int[Tensor, "batch pos"]:
        return self.inputs["input_ids"]

    @property
    def first(self) -> Int[Tensor, " batch"]:
        """Position of each prompt's first real token."""
        assert self.mask is not None
        return self.mask.int().argmax(dim=1)

    @property
    def end(self) -> Int[Tensor, " batch"]:
        """Position of each prompt's last real token."""
        assert self.mask is not None
        return self.mask.shape[1] - 1 - self.mask.flip(1).int().argmax(dim=1)

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        assert self.mask is not None
        return self.mask.sum(dim=1)

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.inputs.items()}
        return replace(self, inputs=moved, mask=None if self.mask is None else self.mask.to(device))

    def rows(self, start: int, stop: int) -> Batch:
        """Prompts start to stop.

        Raises:
            InterpError: E205 where an input has no row for each prompt (image patches of several images in one row).
        """
        if (start, stop) == (0, self.size):
            return self
        tensors = {name: value for name, value in self.inputs.items() if isinstance(value, Tensor)}
        uneven = [name for name, value in tensors.items() if len(value) != self.size and name not in self.counts]
        if uneven:
            raise InterpError(
                "E205", f"{', '.join(uneven)} cannot be cut by prompts", fix="make one batch for each prompt"
            )
        cut = {name: value[self._cut(name, start, stop)] for name, value in tensors.items()}
        counts = {name: each[start:stop] for name, each in self.counts.items()}
        mask = None if self.mask is None else self.mask[start:stop]
        spans = {role: rows[start:stop] for role, rows in self.spans.items()}
        return replace(
            self, inputs={**self.inputs, **cut}, mask=mask, truncated=self.truncated[start:stop], spans=spans,
            counts=counts,
        )  # fmt: skip

    def _cut(self, name: str, start: int, stop: int) -> slice:
        """Rows of an input that belong to prompts start to stop."""
        each = self.counts.get(name)
        return slice(start, stop) if each is None else slice(sum(each[:start]), sum(each[:stop]))


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: str = "right") -> Batch:
    """Token ids of several lengths as one batch.

    With `side='left'` the batch carries `position_ids`, so that every prompt starts at position 0 all the same.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, where] = torch.tensor(list(row), dtype=torch.long)
        mask[index, where] = True
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
    if side == "left" and not bool(mask.all()):
        inputs["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return Batch(inputs, mask, (0,) * len(rows))
