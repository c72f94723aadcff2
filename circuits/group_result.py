"""What a group search found: limits, steps, interactions, and how they print."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from interp.circuits.results import Result, RunInfo
from interp.circuits.runfolder import RunFolder, RunWriter
from interp.circuits.tables import interval
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    import pandas as pd

FOUND = "group.json"


@dataclass(frozen=True)
class Limits:
    """When a search stops, and how it judges.

    Attributes:
        max_size: heads in the group at most.
        budget: sets evaluated at most, controls and interactions included; None is no limit.
        min_gain: mean gain a round must exceed, in units of the objective.
        level: 1 - coverage of the intervals; a round whose interval of the gain reaches 0 or below ends the search.
        lookahead: heads tried together at most: 1, or 2 for pairs where no single head gains.
        n_controls: random sets for each size of the group.
        seed: of the split, the random sets and the bootstrap.
    """

    max_size: int = 5
    budget: int | None = None
    min_gain: float = 0.0
    level: float = 0.05
    lookahead: int = 1
    n_controls: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_size < 1 or self.lookahead not in (1, 2) or self.n_controls < 0:
            raise InterpError(
                "E205",
                f"max_size {self.max_size}, lookahead {self.lookahead} and n_controls {self.n_controls} do not work",
                fix="max_size is at least 1, lookahead 1 or 2, n_controls at least 0",
            )


@dataclass(frozen=True)
class Estimate:
    """A mean over the judging prompts, with its bootstrap interval; nan where there is none."""

    mean: float
    ci_low: float
    ci_high: float

    @property
    def is_positive(self) -> bool:
        """Above 0 by its interval; values that are equal in all prompts have none and count as they are."""
        return self.mean > 0 and not self.ci_low <= 0


@dataclass(frozen=True)
class Step:
    """One round that was accepted.

    Attributes:
        added: the head, or the pair.
        gain: objective with them less objective without.
        value: objective of the group so far less objective of no head.
        control: the same for random sets of that size, mean over sets; nan without controls.
        above_control: value less control, prompt by prompt.
        n_controls: different random sets that were evaluated.
        beaten_by: share of them whose mean value is at least the group's.
        n_tried: sets this round chose from.
    """

    added: tuple[str, ...]
    gain: Estimate
    value: Estimate
    control: float
    above_control: Estimate
    n_controls: int
    beaten_by: float
    n_tried: int


@dataclass(frozen=True)
class Interaction:
    """What two heads do together beyond the sum of what each does: positive where each needs the other gone too."""

    heads: tuple[str, str]
    effect: Estimate


@dataclass(frozen=True, eq=False, repr=False)
class GroupResult(Result):
    """A group of heads and how it was found.

    Attributes:
        run: provenance; method `objective`, `candidates` and the limits, seed `search`. Model and task are those of the
            numbers that the objective gives, where the search was told.
        group: heads in the order in which they were added.
        steps: the rounds.
        interactions: of all pairs of the group.
        stopped: 'size', 'budget', 'gain' (best mean gain too small), 'interval' (its interval reaches 0), 'candidates'.
        last: the best set of the round that was not accepted, with its gain; None where no round was refused.
        n_evaluations: sets evaluated in all.
        n_prompts: prompts that chose, and prompts that judged.
    """

    kind = "group"
    columns = ("added", "gain", "group", "random sets", "above them", "beaten by")

    run: RunInfo
    group: tuple[str, ...]
    steps: tuple[Step, ...]
    interactions: tuple[Interaction, ...]
    stopped: str
    last: tuple[tuple[str, ...], Estimate] | None
    n_evaluations: int
    n_prompts: tuple[int, int]
    limits: Limits

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, in full sentences."""
        return self.run.warnings

    def to_dict(self) -> dict[str, Any]:
        """What was found, as plain data; without the run."""
        return {name: value for name, value in asdict(self).items() if name != "run"}

    def to_frame(self) -> pd.DataFrame:
        """One row a step."""
        import pandas as pd

        return pd.DataFrame(self.table(), columns=list(self.columns))

    def headline(self) -> str:
        """One sentence: the group, what it is worth, and what random groups are worth."""
        if not self.steps:
            best = f"; best was {' '.join(self.last[0])}, {_spoken(self.last[1])}" if self.last else ""
            return f"No head gains anything{best} ({self.n_evaluations} sets tried)."
        end = self.steps[-1]
        beside = f"random sets of that size {end.control:+.3g}" if end.n_controls else "no control"
        return f"{', '.join(self.group)}: {_spoken(end.value)}; {beside} ({self.n_evaluations} sets tried)."

    def table(self) -> list[list[str]]:
        return [_cells(step) for step in self.steps]

    def remarks(self) -> list[str]:
        """Interactions, why it stopped, and notes."""
        pairs = [f"interaction {' '.join(pair.heads)}: {_spoken(pair.effect)}" for pair in self.interactions]
        last = f": {' '.join(self.last[0])} would gain {_spoken(self.last[1])}" if self.last and self.steps else ""
        return [*pairs, f"stopped by {self.stopped}{last}", *self.notes]

    def write_files(self, writer: RunWriter) -> dict[str, Any]:
        writer.write_json(FOUND, self.to_dict())
        return {}

    @classmethod
    def read_files(cls, run: RunFolder) -> dict[str, Any]:
        data = run.read_json(FOUND)
        last = data["last"]
        return {
            **data,
            "group": tuple(data["group"]),
            "steps": tuple(map(_step, data["steps"])),
            "interactions": tuple(
                Interaction(tuple(one["heads"]), Estimate(**one["effect"])) for one in data["interactions"]
            ),
            "last": None if last is None else (tuple(last[0]), Estimate(**last[1])),
            "n_prompts": tuple(data["n_prompts"]),
            "limits": Limits(**data["limits"]),
        }


def _step(data: Mapping[str, Any]) -> Step:
    """A step from what JSON made of it."""
    estimates = {name: Estimate(**data[name]) for name in ("gain", "value", "above_control")}
    return Step(**{**data, **estimates, "added": tuple(data["added"])})


def _spoken(estimate: Estimate) -> str:
    """`+1.2 [0.9, 1.5]`, or the mean alone."""
    ends = "" if math.isnan(estimate.ci_low) else f" {interval(estimate.ci_low, estimate.ci_high)}"
    return f"{estimate.mean:+.3g}{ends}"


def _cells(step: Step) -> list[str]:
    """One line of the table, in the order of `GroupResult.columns`."""
    control = f"{step.control:+.3g} ({step.n_controls} sets)" if step.n_controls else "-"
    above, beaten = (_spoken(step.above_control), f"{100 * step.beaten_by:.3g} %") if step.n_controls else ("-", "-")
    return [" ".join(step.added), _spoken(step.gain), _spoken(step.value), control, above, beaten]
