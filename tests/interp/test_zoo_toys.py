"""The checker of toys, and that every toy says what it is."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from math import nan
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from interp.kernels.errors import InterpError
from interp.zoo.toys import registry
from interp.zoo.toys.base import Finding, Toy, seeded
from interp.zoo.toys.registry import check, check_toy, list_toys, toy

NAMES = [
    "deceptive-attention",
    "deconstructed-attention",
    "hierarchical-filtering",
    "in-context-regression",
    "lda-topics",
    "low-rank-bottleneck",
    "mqar",
    "scan-and-snap",
    "variance-position",
]


@dataclass(frozen=True)
class Coin(Toy):
    """Draws a number; the claim on it can be made to fail at one seed."""

    name: ClassVar[str] = "coin"
    source: ClassVar[str] = "nobody"
    claim: ClassVar[str] = "A number lies between 0 and 1."

    bad: int = -1
    fickle: bool = False

    def findings(self, seed: int) -> list[Finding]:
        drawn = float(torch.rand(()))
        words = f"The number is drawn from {seed}." if self.fickle else "The number is drawn."
        return [
            Finding("The seed is not the bad one.", float(seed), high=100.0 if seed != self.bad else 0.0)
            if self.fickle
            else Finding("The number is small.", drawn + 2.0 * (seed == self.bad), high=1.0),
            Finding(words, drawn, 0.0, 1.0),
        ]


def test_all_toys_are_listed() -> None:
    assert list(list_toys()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_toy_says_what_it_is(name: str) -> None:
    chosen = list_toys()[name]
    assert chosen.name == name and "arXiv" in chosen.source and chosen.claim.endswith(".")
    assert len(set(chosen.seeds)) >= 3
    assert chosen.__doc__ and "Measured" in chosen.__doc__
    assert is_dataclass(chosen)
    undocumented = [field.name for field in fields(chosen) if f"{field.name}:" not in chosen.__doc__]
    assert not undocumented


def test_one_file_a_toy() -> None:
    files = {Path(str(registry.import_module(chosen.__module__).__file__)).stem for chosen in list_toys().values()}
    assert files == {name.replace("-", "_") for name in NAMES}


@pytest.mark.parametrize(
    ("value", "low", "high", "holds"),
    [
        (0.5, 0.0, 1.0, True),
        (1.0, 0.0, 1.0, True),
        (1.01, 0.0, 1.0, False),
        (-0.01, 0.0, 1.0, False),
        (nan, 0, 1, False),
    ],
)
def test_bounds_are_inclusive_and_nan_fails(value: float, low: float, high: float, holds: bool) -> None:
    assert Finding("It is so.", value, float(low), float(high)).holds is holds


def test_bounds_in_words() -> None:
    assert Finding("a", 0.0, low=0.95).bound == ">= 0.95"
    assert Finding("a", 0.0, high=0.02).bound == "<= 0.02"
    assert Finding("a", 0.0, 0.9, 1.1).bound == "0.9 to 1.1"


def test_a_claim_needs_a_bound_that_can_be_met() -> None:
    with pytest.raises(AssertionError, match="without a bound"):
        Finding("a", 0.0)
    with pytest.raises(AssertionError, match="nothing can meet"):
        Finding("a", 0.0, 1.0, 0.5)


def test_a_report_has_one_value_a_seed() -> None:
    report = check_toy(Coin(), (3, 5))
    assert report.passed and report.seeds == (3, 5) and report.seconds > 0
    for seed, value in zip((3, 5), report.verdicts[0].values, strict=True):
        assert value == float(torch.rand((), generator=torch.Generator().manual_seed(seed)))


def test_one_failing_seed_fails_the_toy() -> None:
    report = check_toy(Coin(bad=1))
    assert not report.passed
    assert [verdict.holds for verdict in report.verdicts] == [False, True]
    assert check_toy(Coin(bad=1), (0, 2)).passed


def test_claims_that_change_with_the_seed_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="change with the seed"):
        check_toy(Coin(fickle=True))


def test_a_toy_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(())
    Coin().run(7)
    with seeded(3):
        torch.rand(5)
    assert torch.equal(torch.stack([first, torch.rand(())]), expected)


def test_an_unknown_toy_is_named_with_its_neighbours() -> None:
    with pytest.raises(InterpError, match="no toy 'mqra'") as caught:
        toy("mqra")
    assert caught.value.code == "E201" and "'mqar'" in caught.value.fix


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_be_some_and_different(seeds: tuple[int, ...]) -> None:
    with pytest.raises(InterpError, match="at least one, none twice") as caught:
        check("variance-position", seeds)
    assert caught.value.code == "E205"
