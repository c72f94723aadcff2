"""Cells: what is patched at a time, a head or a layer, and at which place of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from interp.hooks.edits import Positions, freeze_positions
from interp.hooks.names import HeadId, parse_head
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

EACH, ROLES = "each", "roles"
"""Positions that mean a grid: every position by itself, or every role by itself."""

Place = None | str | int


@dataclass(frozen=True)
class Unit:
    """Something that is patched as one.

    Attributes:
        label: `L2H1`; `L2KV0`, a key/value head that several query heads share; `L2.resid_pre`; `L0H1+L2H3`, a group.
        layer: None for a group.
        head: number of the head, or of the key/value head; None for layers and groups.
        heads: the query heads behind it; empty for layers.
    """

    label: str
    layer: int | None
    head: int | None = None
    heads: tuple[HeadId, ...] = ()

    @classmethod
    def of_head(cls, head: HeadId) -> Unit:
        return cls(head.label, head.layer, head.head, (head,))

    @classmethod
    def of_group(cls, heads: Sequence[HeadId]) -> Unit:
        """Heads that are patched together."""
        return cls("+".join(head.label for head in heads), None, None, tuple(heads))


@dataclass(frozen=True)
class Cell:
    """A unit at a place; one row of a result.

    Attributes:
        place: a role, or a position counted from 0; None where the whole run is about one place.
    """

    unit: Unit
    place: Place = None

    @property
    def label(self) -> str:
        """`L2H1`, `L2H1@s2` or `L2H1@7`."""
        return self.unit.label if self.place is None else f"{self.unit.label}@{self.place}"

    def positions(self, asked: Positions) -> Positions:
        """Where its patch acts, in a run that was asked for these positions."""
        return asked if self.place is None else self.place

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        unit = {"label": self.unit.label, "layer": self.unit.layer, "head": self.unit.head}
        return {**unit, "heads": [head.label for head in self.unit.heads], "place": self.place}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """What `to_dict` gave."""
        heads = tuple(map(parse_head, data["heads"]))
        return cls(Unit(data["label"], data["layer"], data["head"], heads), data["place"])


def places_of(positions: Positions, pairs: Pairs) -> tuple[Place, ...]:
    """The places of a grid, or the one place of a run.

    Raises:
        InterpError: E313 roles are asked for, and the prompts name none.
    """
    if positions == EACH:
        return tuple(range(int(pairs.clean.lengths.max())))
    if positions != ROLES:
        return (None,)
    if not pairs.clean.spans:
        raise InterpError("E313", "the prompts name no roles", fix="give spans, or positions='each'")
    return tuple(pairs.clean.spans)


def plain_positions(positions: Positions) -> Any:
    """Positions as a record keeps them."""
    if positions is None or isinstance(positions, str):
        return positions
    return list(freeze_positions(positions))


def is_there(cells: Sequence[Cell], asked: Positions, pairs: Pairs) -> Bool[np.ndarray, "cell prompt"]:
    """Whether each prompt has a token where each cell is patched, in a run that was asked for these positions."""
    lengths = pairs.clean.lengths.cpu().numpy()
    return np.stack([lengths > first_position(cell.positions(asked)) for cell in cells])


def first_position(positions: Positions) -> int:
    """The first of positions given as numbers; -1 for those that every prompt has."""
    return -1 if positions is None or isinstance(positions, str) else min(map(int, freeze_positions(positions)))
