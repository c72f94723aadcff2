"""What parts do together: pairs and groups that stand in for each other, and how they print."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.circuits.tables import Tabled, counted, interval, number


@dataclass(frozen=True)
class Searching:
    """How redundancy is searched.

    Attributes:
        floor: share of |m(M) - m(nothing)| that is small.
        level: of the tests, and 1 - coverage of the intervals.
        max_pairs: pairs tried, at most.
        max_groups: groups looked for, at most.
        seed: of the split of the prompts and of resamples.
    """

    floor: float = 0.02
    level: float = 0.05
    max_pairs: int = 2000
    max_groups: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Joint:
    """Parts that were out together.

    Attributes:
        labels: which.
        singles: mean effect of each alone.
        effect: of all together, mean.
        interaction: effect less the sum of singles, mean, with its interval.
        q: of no interaction, after false-discovery control over the pairs, or groups, that were judged.
        is_redundant: q at or below the level, and the whole interval beyond `floor`.
    """

    labels: tuple[str, ...]
    singles: tuple[float, ...]
    effect: float
    interaction: float
    low: float
    high: float
    q: float
    is_redundant: bool


@dataclass(frozen=True, eq=False)
class Redundancy(Tabled):
    """Made by `redundancy`.

    Attributes:
        labels: of all parts; `effects` their mean effects alone, `candidates` those that look idle.
        gap: m(M) - m(nothing), mean.
        level: of the tests.
        together: all candidates out at once.
        pairs: judged, largest interaction first.
        n_pairs: that there are among the candidates.
        n_tried: of them, how many were run.
        n_judging: prompts that judged pairs and groups.
        p_floor: the smallest p that so many prompts can give.
        groups: found; a part may stand in one only.
    """

    labels: tuple[str, ...]
    effects: Float[np.ndarray, " part"]
    candidates: tuple[str, ...]
    gap: float
    level: float
    together: Joint | None
    pairs: tuple[Joint, ...]
    n_pairs: int
    n_tried: int
    n_judging: int
    p_floor: float
    groups: tuple[Joint, ...]

    @property
    def redundant(self) -> tuple[Joint, ...]:
        """Pairs that are."""
        return tuple(pair for pair in self.pairs if pair.is_redundant)

    @property
    def can_claim(self) -> bool:
        """Whether one pair alone could be claimed with this number of prompts, were it as clear as can be."""
        return self.p_floor * len(self.pairs) <= self.level

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        columns = ["out together", "alone", "together", "beyond the sum", "interval", "q"]
        rows = [
            [
                " + ".join(one.labels), ", ".join(map(number, one.singles)), number(one.effect),
                number(one.interaction), interval(one.low, one.high), number(one.q),
            ]
            for one in (*self.groups, *self.redundant)
        ]  # fmt: skip
        title = f"{counted(len(self.redundant), 'redundant pair')} of {self.n_tried} tried ({self.n_pairs} there are), "
        title += (
            f"{counted(len(self.groups), 'group')}; {len(self.candidates)} of {len(self.labels)} parts look idle alone"
        )
        remarks = [f"m(M) - m(nothing) is {number(self.gap)}"]
        if self.together is not None:
            remarks.append(f"all that look idle, out together, cost {number(self.together.effect)}")
        if self.pairs and not self.can_claim:
            remarks.append(
                f"{self.n_judging} prompts are too few to claim one of {len(self.pairs)} pairs: ask for more"
            )
        return title, columns, rows, remarks
