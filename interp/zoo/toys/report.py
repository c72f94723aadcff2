"""`ToyReport`: every finding of a toy for every seed."""

from __future__ import annotations

from dataclasses import dataclass

from interp.zoo.toys.base import Finding


@dataclass(frozen=True)
class Verdict:
    """One claim over all seeds.

    Attributes:
        claim: what must be seen.
        bound: the bound in words.
        values: measured, one a seed, in the order of the report's seeds.
        holds: whether every seed kept the bound.
    """

    claim: str
    bound: str
    values: tuple[float, ...]
    holds: bool


@dataclass(frozen=True)
class ToyReport:
    """What came out of a toy.

    Attributes:
        name: of the toy.
        seeds: in the order they ran.
        runs: findings of each seed.
        seconds: wall time of all seeds together.
    """

    name: str
    seeds: tuple[int, ...]
    runs: tuple[tuple[Finding, ...], ...]
    seconds: float

    def __post_init__(self) -> None:
        assert self.runs and all(self.runs), f"toy {self.name} found nothing"
        stated = {tuple((finding.claim, finding.bound) for finding in run) for run in self.runs}
        assert len(stated) == 1, f"claims of toy {self.name} change with the seed"

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One row a claim."""
        return tuple(
            Verdict(same[0].claim, same[0].bound, tuple(f.value for f in same), all(f.holds for f in same))
            for same in zip(*self.runs, strict=True)
        )

    @property
    def passed(self) -> bool:
        """Whether every claim holds for every seed."""
        return all(verdict.holds for verdict in self.verdicts)
