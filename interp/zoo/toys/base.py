"""`Toy`: an experiment whose outcome is known. One class a file; its fields are the experiment's numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Finding:
    """One stated outcome and what was measured of it.

    Attributes:
        claim: a full sentence that says what must be seen; the same for every seed.
        value: the measured figure.
        low: smallest value at which the claim holds.
        high: largest value at which it holds.
    """

    claim: str
    value: float
    low: float = -inf
    high: float = inf

    def __post_init__(self) -> None:
        assert -inf < self.low or self.high < inf, f"a claim without a bound: {self.claim}"
        assert self.low <= self.high, f"bounds that nothing can meet: {self.claim}"

    @property
    def bound(self) -> str:
        """The bound in words: `>= 0.95`, `<= 0.02` or `0.9 to 1.1`."""
        if self.high == inf:
            return f">= {self.low:g}"
        return f"<= {self.high:g}" if self.low == -inf else f"{self.low:g} to {self.high:g}"

    @property
    def holds(self) -> bool:
        """Whether the value keeps its bound; a value that is not a number never does."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class Toy(ABC):
    """An experiment with a known answer: the same fields and seed give the same findings on one machine.

    A subclass is a frozen dataclass whose fields have defaults. Its docstring gives the figures that were measured.

    Attributes:
        name: name in the registry.
        source: paper and arXiv number.
        claim: what the experiment shows, in one sentence.
        seeds: seeds that `check` runs unless told otherwise.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    claim: ClassVar[str]
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def run(self, seed: int) -> list[Finding]:
        """All findings of one seed; torch's own random state is left as it was."""
        with seeded(seed):
            return self.findings(seed)

    @abstractmethod
    def findings(self, seed: int) -> list[Finding]:
        """Measure; claims and bounds may depend on the fields, never on the seed."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw everything inside from `seed`; the random state outside is put back.

    Wrapped around the runs that are compared, it gives them the same data and the same first weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
