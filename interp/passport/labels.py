"""What a head may be called, and because of which verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp.circuits.tables import number
from interp.passport.reading import Reading
from interp.passport.sink import SinkVerdict

HIGH = 0.25
"""Least strength of a bounded score, from chance (0) to the most possible (1), that gives a name or is called high."""

FIRST = 0.125
"""Share of all heads that a claimed head must be among, where nothing bounds a score."""

NAMES: Mapping[str, str] = {
    "previous-token": "previous token",
    "current-token": "current token",
    "first-token": "first token",
    "duplicate-token": "duplicate token",
    "induction": "induction",
    "prefix-matching": "induction",
    "copying": "copying",
    "negative-copying": "negative copying",
    "name-mover": "name mover",
    "negative-name-mover": "negative name mover",
    "s-inhibition": "S-inhibition",
    "backup-name-mover": "backup name mover",
    "retrieval": "retrieval",
    "query-retrieval": "retrieval",
    "ships": "safety",
    "ships-angles": "safety",
    "refusal": "safety",
    "refusal-direction": "refusal",
    "arithmetic": "arithmetic",
    "multiple-choice": "multiple choice",
    "vhd": "vision-aware",
}
"""Scorer -> what a head is called that it claims."""


@dataclass(frozen=True)
class Label:
    """A name, and the verdicts that give it."""

    name: str
    because: tuple[str, ...]


def is_high(reading: Reading) -> bool:
    """Claimed, and strong where the score is bounded; where it is not, among the first of all heads."""
    if not reading.claimed or np.isfinite(reading.strength):
        return reading.claimed and reading.strength >= HIGH
    return reading.rank <= max(1.0, FIRST * reading.of)


def labels_of(readings: Sequence[Reading], sink: SinkVerdict | None) -> tuple[Label, ...]:
    """Names by which the readings of one setting call a head, those with most evidence first."""
    because: dict[str, list[str]] = {}
    for one in readings:
        if one.question in NAMES and is_high(one):
            because.setdefault(NAMES[one.question], []).append(f"{one.question} {number(one.value)}")
    if sink is not None and sink.is_sink:
        because.setdefault("sink", []).append(f"{number(sink.received)} of its attention is on {sink.role}")
    order = sorted(because, key=lambda name: -len(because[name]))
    return tuple(Label(name, tuple(because[name])) for name in order)
