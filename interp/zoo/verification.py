"""Do the cards tell the truth? Hashes, and every figure measured anew."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from interp.hooks.loading import quiet
from interp.zoo.differences import Difference, differences, leaves
from interp.zoo.registry import ROOT, recipe_of, verify

TOLERANCE = 2e-3
"""Largest difference of a float between machines, relative where it is over 1: one prompt in 512 whose two best logits
are almost equal."""


@dataclass(frozen=True)
class Verdict:
    """What was found for one bundled model.

    Attributes:
        figures: number of figures compared.
        differences: of those that differ, where they stand in the card, what it states and what was measured.
    """

    name: str
    figures: int
    differences: tuple[Difference, ...]
    seconds: float

    @property
    def agrees(self) -> bool:
        return not self.differences


def verify_model(name: str) -> Verdict:
    """Check the hashes of a bundled model, then measure its figures again.

    Raises:
        InterpError: E201, no recipe has this name; E701, a file is damaged.
    """
    start = time.monotonic()
    recipe = recipe_of(name)
    card = verify(ROOT / name)
    with quiet():
        found = recipe.measure(ROOT / name)
    wrong = differences(card["measured"], found, same)
    return Verdict(name, len(dict(leaves(card["measured"]))), wrong, time.monotonic() - start)


def same(stated: Any, found: Any) -> bool:
    """Equal, or floats that differ by rounding.

    JSON keeps integers and floats apart (1 and 1.0), so that a count is never taken for a share, nor allowed to round.
    """
    if isinstance(stated, float) and isinstance(found, float):
        return abs(stated - found) <= TOLERANCE * max(1.0, abs(stated))
    return type(stated) is type(found) and bool(stated == found)
