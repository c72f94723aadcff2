"""How a subspace that carries an edge is looked for, and what is found."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.circuits.edges.masked import TOKENS
from interp.circuits.group_result import Estimate
from interp.circuits.judging.findings import Findings
from interp.circuits.tables import Tabled, interval, number
from interp.kernels.errors import InterpError, suggest

INSIDE, OUTSIDE, RANDOM = "inside", "outside", "random"
AMONG = {"written": "what is written", "stream": "the stream"}


@dataclass(frozen=True)
class Carrying:
    """How a subspace is looked for and judged.

    Attributes:
        written: in `WRITTEN`.
        read: in `READ`; None takes what is usual for the reader.
        share: of the edge's effect that must be inside, and of which no more than the rest may be outside.
        rank: None looks for the smallest; a number takes it.
        n_random: random subspaces.
        among: in `AMONG`: they lie in what the writer writes, or anywhere in the stream, which is easier to beat.
        level: 1 - coverage of the intervals.
        fires_at: see `read`.
        tokens: of one forward, where one run does not have more.
        seed: of the random subspaces and the resamples.
    """

    written: str = "differences"
    read: str | None = None
    share: float = 0.9
    rank: int | None = None
    n_random: int = 20
    among: str = "written"
    level: float = 0.05
    fires_at: float = 0.5
    tokens: int = TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.among not in AMONG:
            raise InterpError("E201", f"no {self.among!r}", fix=suggest(self.among, AMONG))
        if not 0.5 < self.share < 1 or self.n_random < 0 or (self.rank or 0) < 0:
            what = f"share {self.share}, rank {self.rank} and n_random {self.n_random} do not work"
            raise InterpError("E205", what, fix="a share between 0.5 and 1, and numbers that are not negative")


@dataclass(frozen=True)
class RankShare:
    """Shares of the edge's effect with it out inside the first `rank` directions, and outside them; on choosing prompts.

    Attributes:
        is_enough: whether both keep what they must, by their intervals.
    """

    rank: int
    inside: float
    outside: float
    is_enough: bool


@dataclass(frozen=True, eq=False)
class Carried(Tabled):
    """Made by `carried`.

    Attributes:
        edge: its label.
        rank: of the subspace; `full_rank` of all directions that were found.
        basis: orthonormal directions of the stream, most read first.
        share: of the whole effect, inside; of the prompts that judge.
        whole: effect of the edge.
        inside: effect with the edge out within the subspace alone.
        outside: effect with it out everywhere but there.
        random: as `inside`, mean over random subspaces of this rank; nan without one.
        beaten_by: share of them whose mean effect is at least that of the subspace.
        n_random: how many there were.
        curve: ranks that were tried.
        written, read, among: as asked.
        held_out: whether other prompts judge than those that the directions come from.
        findings: 'inside', 'outside', 'random'.
        forwards: what it cost, in forwards of the prompts.
    """

    edge: str
    rank: int
    full_rank: int
    basis: Float[Tensor, "d_model rank"]
    share: float
    whole: Estimate
    inside: Estimate
    outside: Estimate
    random: Estimate
    beaten_by: float
    n_random: int
    curve: tuple[RankShare, ...]
    written: str
    read: str
    among: str
    held_out: bool
    findings: Findings
    forwards: float

    @property
    def is_proved(self) -> bool:
        """Whether all of it holds: the effect is inside, none is outside, and random subspaces do not do it."""
        return all(one.holds is True for one in self.findings.found)

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        runs = {"whole": self.whole, INSIDE: self.inside, OUTSIDE: self.outside, RANDOM: self.random}
        said = {one.test: one.words for one in self.findings.found}
        rows = [
            [name, number(one.mean, signed=True), interval(one.ci_low, one.ci_high), said.get(name, "")]
            for name, one in runs.items()
        ]
        title = f"{self.edge}: {self.rank} of {self.full_rank} directions carry {self.share:.0%} of its effect"
        prompts = "other prompts" if self.held_out else "the same prompts"
        remarks = [f"directions by {self.written} and {self.read}, judged on {prompts}"]
        if self.n_random:
            remarks.append(
                f"{self.beaten_by:.0%} of {self.n_random} random subspaces of {AMONG[self.among]} do as much"
            )
        return title, ["edge out", "effect", "interval", "verdict"], rows, remarks
