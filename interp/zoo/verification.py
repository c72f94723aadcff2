"""Do the cards tell the truth? Hashes, and every figure measured anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from interp.hooks.loading import quiet
from interp.zoo.registry import ROOT, recipe_of, verify

TOLERANCE = 2e-3
"""Largest difference of a figure between machines: one prompt in 512 whose two best logits are almost equal."""


@dataclass(frozen=True)
class Verdict:
    """What was found for one bundled model.

    Attributes:
        figures: number of figures compared.
        differences: of those that differ, where they stand in the card, what it states and what was measured.
    """

    name: str
    figures: int
    differences: tuple[tuple[str, Any, Any], ...]
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
    stated = dict(figures(card["measured"]))
    with quiet():
        found = dict(figures(recipe.measure(ROOT / name)))
    differences = tuple(
        (path, stated.get(path), found.get(path))
        for path in sorted(stated.keys() | found.keys())
        if not same(stated.get(path), found.get(path))
    )
    return Verdict(name, len(stated), differences, time.monotonic() - start)


def figures(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries and lists, with their paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from figures(inner, f"{path}/{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from figures(inner, f"{path}/{index}")
    else:
        yield path, value


def same(stated: Any, found: Any) -> bool:
    """Equal, or numbers that differ by rounding."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (stated, found))
    if numbers:
        return abs(stated - found) <= TOLERANCE * max(1.0, abs(stated))
    return type(stated) is type(found) and bool(stated == found)
