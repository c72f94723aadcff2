"""One head as the page shows it: in the table, in the panel, in hover labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.ablation.result import AblationResult
from interp.circuits.tables import number

CLAIMED = "claimed"


@dataclass(frozen=True)
class HeadRow:
    """Numbers of one head and what may be said about it; numbers are nan where there is none.

    Attributes:
        place: index in the result.
        mean, low, high: mean effect and its interval.
        control_mean: mean effect of the matched controls.
        controls: their labels.
        n: prompts with a finite effect.
        verdict: one clause.
    """

    place: int
    label: str
    mean: float
    low: float
    high: float
    control_mean: float
    controls: tuple[str, ...]
    q: float
    n: int
    verdict: str
    note: str

    @property
    def claimed(self) -> bool:
        return self.verdict == CLAIMED

    @property
    def effect(self) -> str:
        return number(self.mean, signed=True)

    @property
    def interval(self) -> str:
        return "none" if np.isnan(self.low) else f"{number(self.low)} to {number(self.high)}"

    @property
    def control(self) -> str:
        return number(self.control_mean, signed=True)

    @property
    def q_text(self) -> str:
        return number(self.q)


def head_row(result: AblationResult, place: int) -> HeadRow:
    """The row of one head."""
    found = result.evidence
    columns = (found.mean, found.ci_low, found.ci_high, found.control_mean, found.q)
    mean, low, high, control_mean, q = (float(column[place]) for column in columns)
    label, controls, n = result.heads[place], result.controls[place], int(found.n[place])
    return HeadRow(
        place, label, mean, low, high, control_mean, controls, q, n, verdict(result, place), found.notes[place]
    )


def ranked_rows(result: AblationResult) -> list[HeadRow]:
    """All heads: claimed ones first, then by size of the mean effect."""
    place = {label: index for index, label in enumerate(result.heads)}
    return [head_row(result, place[head.label]) for head in result.top(len(result.heads))]


def verdict(result: AblationResult, place: int) -> str:
    """What may be said about one head."""
    found = result.evidence
    if found.claimed[place]:
        return CLAIMED
    if not found.does_task:
        return "no claim: the model does not do the task"
    return "not tested" if np.isnan(found.p[place]) else "not distinguishable from random heads"
