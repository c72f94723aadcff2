"""`Reading`: one verdict on one head under one way of drawing prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.circuits.evidence import Evidence

if TYPE_CHECKING:
    from interp.heads.result import HeadScores

ABLATION, DIRECT = "ablation", "direct"
NUMBERS = ("value", "low", "high", "chance", "others", "q", "most")


@dataclass(frozen=True, eq=False)
class Reading:
    """One number of a head, beside what it must be compared with. Missing numbers are nan.

    Attributes:
        question: name of the scorer, `ablation: zero`, or `direct logit attribution`.
        family: what kind of answer it is, see `interp.passport.families`.
        setting: name of the way in which prompts were drawn.
        task: whose prompts; `weights` where none were read.
        value: mean over prompts.
        low, high: ends of its interval.
        chance: what chance gives; 0 for effects.
        others: mean of what it was compared with: the other heads of the layer, or matched control heads.
        q: p after false-discovery control, over heads for scores and direct attribution, over operators for ablation.
        claimed: whether the head stands out.
        rank: among `of` heads, from 1, of its value less chance; 0 where the others were not measured.
        most: the most that the value can be; nan where nothing bounds it.
        note: what a reader must know.
        prompts: ids.
        values, chances: on each of them.
    """

    question: str
    family: str
    setting: str
    task: str
    value: float
    low: float
    high: float
    chance: float
    others: float
    q: float
    claimed: bool
    rank: int
    of: int
    most: float
    note: str
    prompts: tuple[str, ...]
    values: Float[np.ndarray, " prompt"]
    chances: Float[np.ndarray, " prompt"]

    @property
    def n(self) -> int:
        """Prompts with a number."""
        return int(np.isfinite(self.values).sum())

    @property
    def side(self) -> int:
        """1 or -1 where the whole interval lies above or below chance; 0 elsewhere."""
        if not np.isfinite(self.low):
            return 0
        return 1 if self.low > self.chance else -1 if self.high < self.chance else 0

    @property
    def strength(self) -> float:
        """Where the value stands between chance (0) and the most that it can be (1); nan where nothing bounds it."""
        return (self.value - self.chance) / (self.most - self.chance) if self.most > self.chance else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """All but the numbers of each prompt, JSON-ready."""
        kept = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("values", "chances")}
        return {**kept, **{name: plain_number(kept[name]) for name in NUMBERS}}

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], values: Float[np.ndarray, " prompt"], chances: Float[np.ndarray, " prompt"]
    ) -> Reading:
        """What `to_dict` gave, after a way through JSON, which writes missing numbers as null."""
        numbers = {name: float("nan") if data[name] is None else data[name] for name in NUMBERS}
        return cls(**{**data, **numbers, "prompts": tuple(data["prompts"]), "values": values, "chances": chances})


def of_scores(result: HeadScores, head: str, family: str, setting: str) -> Reading:
    """A scorer's verdict on one head."""
    index, row = result.heads.index(head), result.row(result.heads.index(head))
    null = result.null[index]
    chance = float(null[np.isfinite(null)].mean()) if np.isfinite(null).any() else float("nan")
    return Reading(
        question=str(result.run.method["scorer"]), family=family, setting=setting, task=str(result.run.task["name"]),
        value=float(result.mean[index]), low=row.ci_low + chance, high=row.ci_high + chance, chance=chance,
        others=row.control_mean + chance, q=row.q, claimed=bool(result.claimed[index]),
        **ranked(result.evidence.mean, index), most=float("nan") if result.ceiling is None else result.ceiling, note=row.note,
        prompts=tuple(prompt.id for prompt in result.prompts), values=result.values[index], chances=null,
    )  # fmt: skip


def of_effect(
    question: str, family: str, setting: str, task: str, *, evidence: Evidence, row: int, effects: np.ndarray,
    prompts: Sequence[str], among: np.ndarray | None = None, place: int = 0,
) -> Reading:  # fmt: skip
    """An effect on a metric, whose chance is 0.

    Args:
        row: of the evidence and of the effects [row prompt].
        among: mean effects of all heads, of which this one is number `place`; None where they were not measured.
    """
    found = evidence.row(row, "")
    rank = {"rank": 0, "of": 0} if among is None else ranked(among, place)
    return Reading(
        question=question, family=family, setting=setting, task=task, value=found.mean, low=found.ci_low,
        high=found.ci_high, chance=0.0, others=found.control_mean, q=found.q, claimed=found.claimed, **rank,
        most=float("nan"), note=found.note, prompts=tuple(prompts), values=effects[row],
        chances=np.zeros_like(effects[row]),
    )  # fmt: skip


def plain_number(value: float) -> float | None:
    """A number as JSON has it: null where it is missing."""
    return None if np.isnan(value) else value


def ranked(means: Float[np.ndarray, " head"], index: int) -> dict[str, int]:
    """Rank from the largest value, ties sharing the better one, and how many heads have a value."""
    finite = np.isfinite(means)
    if not finite[index]:
        return {"rank": 0, "of": int(finite.sum())}
    return {"rank": 1 + int((means[finite] > means[index]).sum()), "of": int(finite.sum())}
