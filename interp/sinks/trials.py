"""Every edit of a sink with its controls: the same done to other keys, or to other heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.question import Question
from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention
from interp.hooks.names import parse_head
from interp.kernels.errors import InterpError
from interp.sinks.edits import SINK, Edit, edits, other_keys, sighted, with_keys
from interp.sinks.settings import Settings
from interp.sinks.survey import Survey
from interp.swapping.controls import matched_states

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

FREE_ROWS = "Rows of this model may have any mass: operators that put a softmax in their place are left out."


@dataclass(frozen=True)
class Trial:
    """One edit or control.

    Attributes:
        controls: labels of its controls; none for a control.
    """

    label: str
    edit: Intervention
    controls: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Trials:
    """Edits first, then their controls.

    Attributes:
        batch: prompts with the roles that the edits name.
        edits: what was tried.
        notes: on what was not.
    """

    batch: Batch
    all: tuple[Trial, ...]
    edits: tuple[Edit, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: HookedModel,
        question: Question,
        seen: Survey,
        heads: tuple[str, ...],
        share: float,
        n: int,
        seed: int,
    ) -> Trials:
        """All edits of these heads, with n controls each, as far as there are so many."""
        others = other_keys(question.batch, seen.sinks, question.read_at, n, seed)
        keys = {f"other key {index + 1}": where for index, where in enumerate(others)}
        batch = with_keys(question.batch, {SINK: seen.sinks, **keys}, causal=seen.is_causal)
        drawn, notes = other_heads(seen.heads, heads, n, seed)
        usable = tuple(one for one in edits(model, share) if not (one.needs_softmax and seen.has_free_rows))
        main, controls = [], []
        for one in usable:
            made = (
                [Trial(f"{one.name}: {name}", one.make(heads, name, sighted(name))) for name in keys]
                if one.control == "key"
                else [
                    Trial(f"{one.name}: other heads {index + 1}", one.make(group, SINK, sighted(SINK)))
                    for index, group in enumerate(drawn)
                ]
            )
            main.append(Trial(one.name, one.make(heads, SINK, sighted(SINK)), tuple(trial.label for trial in made)))
            controls += made
        return cls(batch, (*main, *controls), usable, (*notes, *([FREE_ROWS] if seen.has_free_rows else [])))


def other_heads(
    every: Sequence[str], chosen: Sequence[str], n: int, seed: int
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Random sets of as many heads, layer by layer as far as that goes, and notes on them; they may share heads with the
    chosen ones, but are never the same."""
    state = tuple(int(head in set(chosen)) for head in every)
    drawn = matched_states(state, [parse_head(head).layer for head in every], n, seed)
    groups = tuple(tuple(head for head, taken in zip(every, one, strict=True) if taken) for one in drawn.states)
    return groups, drawn.notes


def sink_heads(seen: Survey, settings: Settings) -> tuple[str, ...]:
    """Heads that give sinks more than `eps` of their attention on average (E205 where there is none)."""
    share = np.nanmean(seen.by_domain["on_sinks"][:, :, 0], axis=1)
    chosen = tuple(head for head, one in zip(seen.heads, share, strict=True) if one > settings.eps)
    if not chosen:
        most = seen.heads[int(share.argmax())]
        raise InterpError(
            "E205",
            f"no head gives sinks more than {settings.eps} of its attention; {most} gives most, {share.max():.2g}",
            fix="name heads, or lower eps",
        )
    return chosen
