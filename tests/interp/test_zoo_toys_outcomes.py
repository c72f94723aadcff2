"""Toys against their bounds: the quick ones whole, the trained ones whole when slow tests run and cut short otherwise."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import pytest

from interp.zoo.toys.registry import check, check_toy, list_toys, toy

QUICK = ("low-rank-bottleneck", "variance-position")
TRAINED = tuple(name for name in list_toys() if name not in QUICK)
SHORT: dict[str, dict[str, Any]] = {
    "hierarchical-filtering": {"steps": 3, "filtered_steps": 3},
    "in-context-regression": {"steps": 3},
    "lda-topics": {"steps": 30},
    "mqar": {"steps": 3, "pairs": (2, 4)},
    "scan-and-snap": {"steps": 100},
}
"""Fields of the smoke; three steps where none are named."""


def broken(report: Any) -> str:
    """What did not hold, for a message."""
    return "\n".join(f"{row.claim} {row.bound}: {row.values}" for row in report.verdicts if not row.holds)


@pytest.mark.parametrize("name", QUICK)
def test_quick_toys_keep_their_bounds(name: str) -> None:
    report = check(name)
    assert report.passed, broken(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_trained_toys_keep_their_bounds(name: str) -> None:
    report = check(name)
    assert report.passed, broken(report)


@pytest.mark.parametrize("name", TRAINED)
def test_an_untrained_toy_gives_the_same_findings_twice_and_fails(name: str) -> None:
    short = replace(toy(name), **SHORT.get(name, {"steps": 3}))
    first, again = check_toy(short, (0,)), check_toy(short, (0,))
    assert first.runs == again.runs
    assert all(isfinite(row.values[0]) for row in first.verdicts)
    assert all(row.claim.endswith(".") for row in first.verdicts)
    assert not first.passed
