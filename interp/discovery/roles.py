"""What the heads of a circuit are called by the scorers, and whether the circuit holds more of such heads than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.circuits.results import Result
from interp.heads.labels import CAUSAL, DIRECT, LOOKS, PartLabels, part_labels
from interp.heads.result import HeadScores
from interp.heads.run import score
from interp.hooks.names import parse_head
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.tasks.base import Task

ROLES = ("previous-token", "duplicate-token", "induction", "name-mover", "s-inhibition", "direct-logit-attribution")
"""Scorers that say what a head of a text model does; those that need roles of the task are asked on the task itself."""

NOT_HERE = ("E303", "E311", "E313", "E403", "E407")
"""Errors that say that a scorer has nothing to read on these prompts or this model."""

ORDER = (CAUSAL, LOOKS, DIRECT)


@dataclass(frozen=True)
class Share:
    """How many of the heads that a scorer claims are in the circuit.

    Attributes:
        claimed, inside: heads that are claimed, in the model and in the circuit.
        expected: how many would be inside if the circuit's heads were drawn at random.
        p: of as many or more inside (hypergeometric, upper tail).
        note: why the scorer could not be asked, '' where it was.
    """

    scorer: str
    task: str
    claimed: int
    inside: int
    expected: float
    p: float
    note: str = ""


@dataclass(frozen=True)
class Roles:
    """Names of heads, and how they go with the circuit.

    Attributes:
        names: head -> what it is called, causal names first; heads of the circuit alone.
        shares: scorer by scorer.
    """

    names: Mapping[str, tuple[str, ...]]
    shares: tuple[Share, ...]

    @classmethod
    def of(cls, heads: Sequence[str], results: Sequence[Result], refused: Mapping[str, str] | None = None) -> Roles:
        """Of the heads of a circuit, by results on its model.

        Args:
            refused: scorer -> why it could not be asked.

        Raises:
            InterpError: E205 results of several models, or that label no parts.
        """
        labels = part_labels(results)
        names = {head: _names(labels[head]) for head in heads if head in labels and labels[head].names}
        shares = [_share(result, heads) for result in results if isinstance(result, HeadScores)]
        nan = float("nan")
        left = [Share(name, "", 0, 0, nan, nan, why) for name, why in (refused or {}).items()]
        return cls(names, (*shares, *left))


def score_roles(
    model: HookedModel, task: Task, scorers: Sequence[str] = ROLES
) -> tuple[list[HeadScores], dict[str, str]]:
    """Scores of every head by these scorers: on the task where they are about its roles, else on a task of their own.

    Scorers that find nothing to score on this model and task stand beside them, with the reason.

    Raises:
        InterpError: E201 no such scorer.
    """
    from interp.heads import scorers as known

    found, refused = [], {}
    for name in scorers:
        kind = known().get(name)
        is_own = kind is not None and kind.__module__.split(".")[2] in ("answers", "effects")
        try:
            found.append(score(model, name, task if is_own else None))
        except InterpError as error:
            if error.code not in NOT_HERE:
                raise
            refused[name] = error.what
    return found, refused


def _names(labels: PartLabels) -> tuple[str, ...]:
    claimed = [one for one in labels.evidence if one.claimed]
    ordered = sorted(claimed, key=lambda one: ORDER.index(one.basis) if one.basis in ORDER else len(ORDER))
    return tuple(dict.fromkeys(one.name for one in ordered))


def _share(result: HeadScores, heads: Sequence[str]) -> Share:
    from scipy.stats import hypergeom

    claims = {label for label, claimed in zip(result.labels, result.evidence.claimed, strict=True) if claimed}
    known = {label for label in result.labels if not parse_head(label).tower}
    inside, drawn = len(claims & set(heads)), len(known & set(heads))
    p = float(hypergeom.sf(inside - 1, len(known), len(claims), drawn)) if claims else float("nan")
    expected = len(claims) * drawn / len(known)
    name, task = str(result.run.method["scorer"]), str(result.run.task["name"])
    return Share(name, task, len(claims), inside, expected, p)
