"""Whether a verdict holds under other seeds and templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.circuits.tables import number
from interp.passport.reading import Reading


@dataclass(frozen=True)
class Stability:
    """One question under all ways of drawing prompts.

    Attributes:
        settings: names of the ways.
        claimed: under how many of them the head stands out.
        lowest, highest: value.
    """

    settings: tuple[str, ...]
    claimed: int
    lowest: float
    highest: float

    @property
    def says(self) -> str:
        """`3 of 6`, or that it was asked once."""
        n = len(self.settings)
        return f"{self.claimed} of {n}" if n > 1 else "asked once"

    @property
    def spread(self) -> str:
        """`0.91 to 0.98`; '' where it was asked once."""
        return f"{number(self.lowest)} to {number(self.highest)}" if len(self.settings) > 1 else ""


def stability(readings: Sequence[Reading]) -> Stability:
    """Of all readings of one question."""
    values = np.array([one.value for one in readings])
    known = values[np.isfinite(values)]
    ends = (float(known.min()), float(known.max())) if known.size else (float("nan"), float("nan"))
    return Stability(tuple(one.setting for one in readings), sum(one.claimed for one in readings), *ends)
