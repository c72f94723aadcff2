"""How a head is compressed and judged, and what is found."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.circuits.group_result import Estimate
from interp.circuits.judging.findings import Findings
from interp.circuits.tables import Tabled, interval, number
from interp.hooks.edits import Positions
from interp.hooks.names import parse_head
from interp.kernels.errors import InterpError, suggest

POINTS = ("q", "k", "v", "z")
BASE, SHIFT = "base", "shift"


@dataclass(frozen=True)
class Compressing:
    """What is compressed, and how it is judged.

    Attributes:
        head: label; its key/value head where the point is k or v, with all query heads that read it.
        point: in `POINTS`; queries and keys before rotary positions.
        positions: where, as in `Patch`; what is read there makes the space too.
        share: of the way from rank 0 to the untouched model that must be kept.
        ranks: tried; None doubles from 1 to all.
        n_random: random spaces of the chosen rank.
        level: 1 - coverage of the intervals.
        batch_size: prompts of one forward.
        seed: of the random spaces and the resamples.
    """

    head: str
    point: str = "q"
    positions: Positions = "end"
    share: float = 0.9
    ranks: tuple[int, ...] | None = None
    n_random: int = 20
    level: float = 0.05
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise InterpError("E201", f"cannot compress {self.point!r}", fix=suggest(self.point, POINTS))
        parse_head(self.head)
        if not 0 < self.share < 1 or self.n_random < 0 or (self.ranks is not None and min(self.ranks, default=0) < 1):
            what = f"share {self.share}, ranks {self.ranks} and n_random {self.n_random} do not work"
            raise InterpError(
                "E205", what, fix="a share between 0 and 1, ranks from 1, and no negative number of spaces"
            )


@dataclass(frozen=True)
class Kept:
    """What a space keeps of the metric on one set of prompts.

    Attributes:
        share: of the way from rank 0 to the untouched model.
        metric: mean, with its interval.
    """

    rank: int
    share: float
    metric: Estimate


@dataclass(frozen=True, eq=False)
class OnPrompts:
    """What one set of prompts says.

    Attributes:
        clean: the metric of the untouched model.
        curve: by rank, rank 0 first.
        random: share that random spaces of the chosen rank keep, mean; nan without one.
        beaten_by: share of them that keep as much.
    """

    clean: Estimate
    curve: tuple[Kept, ...]
    random: float
    beaten_by: float


@dataclass(frozen=True, eq=False)
class Compression(Tabled):
    """Made by `compress`.

    Attributes:
        rank: the smallest that keeps the share on the prompts that the space comes from, by its interval.
        basis: orthonormal directions of the head's numbers, largest first; all that were found.
        mean: what rank 0 puts there.
        on: 'base', 'shift' -> what these prompts say.
        findings: of both, whether the head's point matters there ('... matters'), whether the space keeps the share
            ('... kept') and more than random ones ('... random').
        notes: what a reader must know.
    """

    asked: Compressing
    rank: int
    basis: Float[Tensor, "d_head direction"]
    mean: Float[Tensor, " d_head"]
    on: dict[str, OnPrompts]
    findings: Findings
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """In words: what the space explains; nothing where the metric at rank 0 is not told from the untouched one."""
        if self.rank == len(self.mean):
            return "not compressed"
        base, shift = (self._says(where) for where in (BASE, SHIFT))
        if base != "explained":
            return {"idle": "nothing to explain", "open": "undecided", "unexplained": "does not explain base"}[base]
        said = {
            "explained": "explains base and shift",
            "unexplained": "explains base, not the shift",
            "idle": "explains base; the shift does not use it",
            "open": "explains base; undecided on the shift",
        }
        return said[shift]

    def _says(self, where: str) -> str:
        if self.findings[f"{where} matters"].holds is not True:
            return "idle"
        tests = [self.findings[f"{where} {test}"].holds for test in ("kept", "random")]
        return "unexplained" if False in tests else "open" if None in tests else "explained"

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        rows = []
        for base, shift in zip(self.on[BASE].curve, self.on[SHIFT].curve, strict=True):
            cells = [f"{one.share:.0%} {interval(one.metric.ci_low, one.metric.ci_high)}" for one in (base, shift)]
            rows.append([str(base.rank), *cells])
        asked = self.asked
        title = f"{asked.head}.{asked.point}, rank {self.rank} of {len(self.mean)}: {self.verdict}"
        found = [
            f"{where}: untouched {number(one.clean.mean)}, random spaces keep {number(one.random)} of the way"
            for where, one in self.on.items()
        ]
        return title, ["rank", "kept on base", "kept on the shift"], rows, [*found, *self.notes]
