"""Compact passports of the heads of a circuit: what `interp.passport` says of each, without its numbers of each prompt.

Scorers score all heads at once, so the heads of a circuit share them; sinks are judged without taking heads away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.tables import counted, number
from interp.passport.flags import Flag
from interp.passport.labels import Label
from interp.passport.reading import ABLATION, DIRECT, Reading

if TYPE_CHECKING:
    import pandas as pd

    from interp.hooks.model import HookedModel
    from interp.passport.result import Passport
    from interp.tasks.base import Task

EFFECTS = (ABLATION, DIRECT)
NAMED = 2
"""Claims that a table names of each head, those with the best ranks first; the figure of the page shows all."""

COLUMNS = ("head", "called", "claimed of it", "effects on the metric", "where verdicts disagree")


@dataclass(frozen=True)
class Compact:
    """One head.

    Attributes:
        labels: what it is called, with the verdicts that say so.
        flags: where verdicts contradict each other.
        readings: question by question, without the numbers of each prompt.
        asked: prompts behind each reading.
    """

    head: str
    labels: tuple[Label, ...]
    flags: tuple[Flag, ...]
    readings: tuple[Reading, ...]
    asked: tuple[int, ...]

    @classmethod
    def of(cls, found: Passport) -> Compact:
        """From a whole passport, its main way of drawing prompts."""
        bare = tuple(replace(one, prompts=(), values=np.zeros(0), chances=np.zeros(0)) for one in found.main)
        return cls(found.head, found.labels, found.flags, bare, tuple(one.n for one in found.main))

    def record(self) -> dict[str, Any]:
        """As plain data."""
        readings = [one.to_dict() for one in self.readings]
        labels, flags = ([asdict(one) for one in some] for some in (self.labels, self.flags))
        return {"head": self.head, "labels": labels, "flags": flags, "readings": readings, "asked": list(self.asked)}

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Compact:
        """What `record` gave, after a way through JSON."""
        return cls(
            data["head"],
            tuple(Label(one["name"], tuple(one["because"])) for one in data["labels"]),
            tuple(Flag(one["kind"], one["says"], tuple(one["questions"])) for one in data["flags"]),
            tuple(Reading.from_dict(one, np.zeros(0), np.zeros(0)) for one in data["readings"]),
            tuple(data["asked"]),
        )

    def line(self) -> list[str]:
        """Head, names, claimed scores beside what they are compared with, effects, kinds of flags."""
        asked = [one for one in self.readings if one.family not in EFFECTS]
        claimed = sorted((one for one in asked if one.claimed), key=lambda one: one.rank / max(one.of, 1))
        more = [f"and {len(claimed) - NAMED} more"] if len(claimed) > NAMED else []
        scores = [*map(_told, claimed[:NAMED]), *more]
        effects = [
            f"{one.question.removeprefix(f'{ABLATION}: ')} {number(one.value, signed=True)}"
            f"{'' if one.claimed else ' (not claimed)'}"
            for one in self.readings
            if one.family in EFFECTS
        ]
        names = ", ".join(label.name for label in self.labels) or "-"
        flags = ", ".join(dict.fromkeys(flag.kind for flag in self.flags)) or "nowhere"
        told = ", ".join(scores) or f"none of {counted(len(asked), 'score')}"
        return [self.head, names, told, ", ".join(effects), flags]

    def contradictions(self) -> list[list[str]]:
        """Head, kind and sentence of each flag."""
        return [[self.head, flag.kind, flag.says] for flag in self.flags]


def _told(one: Reading) -> str:
    """A score beside chance and what it is compared with."""
    return f"{one.question} {number(one.value)} (chance {number(one.chance)}, others {number(one.others)})"


@dataclass(frozen=True)
class Passports:
    """Of the heads of a circuit, the one that writes most first.

    Attributes:
        left_out: scorer or other question -> why there is no verdict.
    """

    heads: tuple[Compact, ...]
    left_out: Mapping[str, str]

    def __getitem__(self, head: str) -> Compact:
        return next(one for one in self.heads if one.head == head)

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {"heads": [one.record() for one in self.heads], "left_out": dict(self.left_out)}

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Passports:
        """What `record` gave, after a way through JSON."""
        return cls(tuple(Compact.from_record(one) for one in data["heads"]), data["left_out"])

    def to_frame(self) -> pd.DataFrame:
        """One row a head and question: value, interval, chance, what it is compared with, q, rank."""
        import pandas as pd

        kept = ("prompts", "values", "chances")
        return pd.DataFrame(
            [
                {"head": one.head, **{name: value for name, value in vars(row).items() if name not in kept}, "n": n}
                for one in self.heads
                for row, n in zip(one.readings, one.asked, strict=True)
            ]
        )


def passports_of(
    model: HookedModel, heads: Sequence[str], task: Task, scorers: str | Sequence[str], **options: Any
) -> Passports:
    """Passports of the heads of a circuit; no scorer is asked where it has none.

    Args:
        scorers: as `interp.passport` takes them.
        options: `batch_size`, `truncate`.

    Raises:
        InterpError: what `interp.passport` raises.
    """
    from interp.passport.run import passports

    if not heads:
        return Passports((), {})
    found = passports(
        model, list(heads), task, scorers=scorers, seeds=(task.seed,), templates=[], dormancy=False, **options
    )
    first = next(iter(found.values()))
    return Passports(tuple(Compact.of(found[head]) for head in heads), dict(first.left_out))


def check_scorers(scorers: str | Sequence[str]) -> None:
    """Refuse scorers that are not known, before anything runs.

    Raises:
        InterpError: E201 unknown name; E205 one twice.
    """
    from interp.passport.families import asked_scorers

    if scorers:
        asked_scorers(scorers)
