"""Units, the smallest pieces of a sweep, and how they are dealt into shards.

A sweep fills a table of variants and prompts. A unit is one batch of prompts under one chunk of variants of a layer.
Units are fixed by the plan and never by the number of shards or workers, and the numbers of a unit depend on the unit
alone: that is why any sharding gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from interp.hooks.naive import batches
from interp.kernels.errors import InterpError

CHUNK = 16
"""Variants of one layer that a unit holds at most."""


@dataclass(frozen=True, order=True)
class Unit:
    """Prompts start to stop under variants first to last.

    Attributes:
        start, stop: prompts of one batch.
        first, last: variants, all of one layer.
        layer: the lowest layer that these variants edit.
    """

    start: int
    stop: int
    first: int
    last: int
    layer: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of variants and prompts."""
        return self.last - self.first, self.stop - self.start

    @property
    def cells(self) -> int:
        """Numbers in the unit."""
        return self.shape[0] * self.shape[1]

    def to_list(self) -> list[int]:
        return [self.start, self.stop, self.first, self.last, self.layer]


def cut(n_prompts: int, batch_size: int, layers: Sequence[int], chunk: int = CHUNK) -> tuple[Unit, ...]:
    """All units of a sweep, batch by batch, so that what a batch shares is at hand for the next unit.

    Args:
        layers: lowest layer that each variant edits; neighbours of one layer share units.
        chunk: variants in a unit at most.
    """
    spans: list[tuple[int, int, int]] = []
    place = 0
    for layer, members in groupby(layers):
        end = place + len(list(members))
        spans += [(first, min(first + chunk, end), layer) for first in range(place, end, chunk)]
        place = end
    return tuple(
        Unit(start, stop, first, last, layer)
        for start, stop in batches(n_prompts, batch_size)
        for first, last, layer in spans
    )


def deal(units: Sequence[Unit], n_shards: int) -> tuple[tuple[Unit, ...], ...]:
    """Units as `n_shards` runs of neighbours, of about equal length.

    Raises:
        InterpError: E205 more shards than units.
    """
    if not 1 <= n_shards <= len(units):
        raise InterpError(
            "E205",
            f"{n_shards} shards of a sweep that has {len(units)} units",
            fix=f"ask for 1 to {len(units)} shards; a smaller --batch-size makes more units",
        )
    ends = [round(index * len(units) / n_shards) for index in range(n_shards + 1)]
    return tuple(tuple(units[start:stop]) for start, stop in zip(ends, ends[1:], strict=False))
