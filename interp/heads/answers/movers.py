"""Which heads move the answer of a prompt: named, or found prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.heads.answers.effects import LEAST
from interp.heads.answers.name_mover import NameMover
from interp.heads.answers.places import every_head
from interp.hooks.names import HeadId, parse_heads
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

ENOUGH = 0.1
"""Share of a prompt's logit difference that a head must move to be one of its movers."""

NONE = "no head is a name mover in it (movers= can name some)"


@dataclass(frozen=True)
class Movers:
    """The name movers of each prompt, strongest first; none where no head is one.

    They are chosen prompt by prompt, so that the score of one prompt does not depend on which others it stands with.
    """

    heads: tuple[tuple[HeadId, ...], ...]

    @property
    def left_out(self) -> dict[int, str]:
        return {row: NONE for row, found in enumerate(self.heads) if not found}

    @property
    def groups(self) -> dict[tuple[HeadId, ...], list[int]]:
        """The prompts of each set of movers."""
        rows: dict[tuple[HeadId, ...], list[int]] = {}
        for row, found in enumerate(self.heads):
            if found:
                rows.setdefault(tuple(sorted(found)), []).append(row)
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """Which heads they are, and in how many prompts."""
        count: dict[str, int] = {}
        for head in (head.label for found in self.heads for head in found):
            count[head] = count.get(head, 0) + 1
        often = sorted(count, key=lambda label: -count[label])
        named = ", ".join(f"{label} ({count[label]})" for label in often)
        return (f"Name movers, with the number of prompts of {len(self.heads)}: {named}.",) if count else ()


def find_movers(
    model: HookedModel, pairs: Pairs, given: Sequence[str], most: int, batch_size: int, *, io: str = ""
) -> Movers:
    """The heads that were named, in every prompt; else those that `NameMover` scores highest, prompt by prompt.

    A head is a mover of a prompt if its score there is at least a tenth of the logit difference.

    Raises:
        InterpError: E202, E203 for the names; E313, the answer stands in no prompt.
    """
    if given:
        return Movers((parse_heads(given, model.heads),) * len(pairs))
    heads = every_head(model)
    scores = NameMover(io=io).measure(model, pairs, heads, batch_size)
    least = ENOUGH / LEAST * scores.null
    found = []
    for row in range(len(pairs)):
        values = np.nan_to_num(scores.values[:, row])
        order = np.argsort(-values, kind="stable")[:most]
        found.append(tuple(heads[index] for index in order if values[index] >= least[index, row] > 0))
    return Movers(tuple(found))


def labels_of(movers: str) -> tuple[str, ...]:
    """Labels with commas between them."""
    return tuple(part.strip() for part in movers.split(",") if part.strip())


def check_movers(scorer: str, movers: str, most: int) -> None:
    """Raises E205 for fewer than one mover."""
    if most < 1 or (movers and not labels_of(movers)):
        raise InterpError("E205", f"movers={movers!r}, most={most}", where=f"scorer {scorer}", fix="at least 1 mover")
