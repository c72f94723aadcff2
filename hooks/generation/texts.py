"""Prompts that grow at their end: what a model is told, and where interventions act, at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.hooks.batch import Batch
from interp.kernels.errors import InterpError

TOLD = ("input_ids", "position_ids")
"""What a model is told of each token that follows those in its cache."""


@dataclass(eq=False)
class Texts:
    """Some prompts with what was written after them.

    All rows end in one column, so that every step adds one column, windows of attention see no gap, and what the cache
    holds never moves.

    Attributes:
        prompts: with padding on the left alone.
        shifts: how many columns each row was moved to the right of where it was given.
        tells_positions: whether the model is told positions; else it counts them by itself.
        memory: of the interventions.
        places: role -> columns as they were given, for positions that are numbers.
        written: tokens of each step.
    """

    prompts: Batch
    shifts: tuple[int, ...]
    tells_positions: bool
    memory: dict[Any, Any] | None
    places: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    written: list[Int[Tensor, " batch"]] = field(default_factory=list)

    @property
    def width(self) -> int:
        return self.prompts.input_ids.shape[1] + len(self.written)

    def batch(self, start: int) -> Batch:
        """The whole texts, of which tokens from `start` on are to be computed."""
        new = torch.stack(self.written, 1) if self.written else self.prompts.input_ids[:, :0]
        n = len(self.written)
        inputs = {
            name: _longer(value, n) if self._is_each_token(value) else value
            for name, value in self.prompts.inputs.items()
        }
        assert self.prompts.mask is not None
        mask = torch.nn.functional.pad(self.prompts.mask, (0, n), value=True)
        inputs |= {"input_ids": torch.cat([self.prompts.input_ids, new], 1), "attention_mask": mask.long()}
        if self.tells_positions:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        spans = {**self.prompts.spans, **{role: self._columns(places) for role, places in self.places.items()}}
        return replace(self.prompts, inputs=inputs, mask=mask, spans=spans, written=n, start=start, memory=self.memory)

    def step_inputs(self, batch: Batch) -> dict[str, Any]:
        """What the forward is given: everything at first, and then the newest tokens and where they stand."""
        if not batch.start:
            return dict(batch.inputs)
        told = {name: batch.inputs[name][:, batch.start :] for name in TOLD if name in batch.inputs}
        assert batch.mask is not None
        return told if bool(batch.mask.all()) else {**told, "attention_mask": batch.inputs["attention_mask"]}

    def _columns(self, places: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Where these positions of each row are by now; those that are not written yet are left out."""
        return tuple(
            tuple(place + shift for place in places if 0 <= place + shift < self.width) for shift in self.shifts
        )

    def _is_each_token(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape == self.prompts.input_ids.shape


def _longer(value: Tensor, n: int) -> Tensor:
    """An input with one number a token: 0 for what is written, which is plain text."""
    return torch.nn.functional.pad(value, (0, n))


def texts_of(batch: Batch, tells_positions: bool, *, cached: bool, cut: int = 0) -> Texts:
    """Prompts, ready to grow.

    Args:
        tells_positions: whether the model can be told positions.
        cached: whether interventions have a memory.
        cut: columns of what was given that were left out before these.

    Raises:
        InterpError: E205 positions that do not count each prompt's tokens from 0.
    """
    ids = batch.input_ids
    mask = torch.ones_like(ids, dtype=torch.bool) if batch.mask is None else batch.mask
    counted = (mask.long().cumsum(1) - 1).clamp(min=0)
    told = batch.inputs.get("position_ids")
    if told is not None and not (told.shape == ids.shape and bool((told == counted)[mask].all())):
        raise InterpError(
            "E205", "positions that do not count the tokens of a prompt", fix="leave position_ids out of the inputs"
        )
    shifts = ids.shape[1] - 1 - replace(batch, mask=mask).end
    moved = {
        name: _moved(value, shifts) if isinstance(value, Tensor) and value.shape == ids.shape else value
        for name, value in batch.inputs.items()
        if name != "position_ids"
    }
    offsets = shifts.tolist()
    spans = {
        role: tuple(tuple(place + offset for place in row) for row, offset in zip(rows, offsets, strict=True))
        for role, rows in batch.spans.items()
    }
    mask = _moved(mask, shifts)
    return Texts(
        replace(batch, inputs=moved, mask=mask, spans=spans),
        tuple(offset - cut for offset in offsets),
        tells_positions and not bool(mask.all()),
        {} if cached else None,
    )


def _moved(value: Tensor, shifts: Int[Tensor, " batch"]) -> Tensor:
    """Each row turned to the right by so many columns."""
    columns = torch.arange(value.shape[1], device=value.device) - shifts.to(value.device)[:, None]
    return value.gather(1, columns % value.shape[1])
