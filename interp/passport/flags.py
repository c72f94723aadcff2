"""Where verdicts on one head contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.circuits.tables import listed, number
from interp.heads.labels import SURE
from interp.passport.families import EXPLAINS, LOOKS, SIGNED
from interp.passport.labels import is_high
from interp.passport.reading import ABLATION, DIRECT, Reading

LARGE = 0.1
"""Least effect, as a share of the metric of the untouched model, that asks for an explanation."""

NO_EFFECT = "score without effect"
NO_SCORE = "effect without score"
OPERATORS = "operators disagree"
FLIPS = "sign flips"


@dataclass(frozen=True)
class Flag:
    """One contradiction.

    Attributes:
        kind: `NO_EFFECT`, `NO_SCORE`, `OPERATORS` or `FLIPS`.
        says: it, in one sentence.
        questions: of the readings that contradict each other.
    """

    kind: str
    says: str
    questions: tuple[str, ...]


def flags_of(
    main: Sequence[Reading], every: Sequence[Reading], baseline: float, *, can_claim: bool
) -> tuple[Flag, ...]:
    """All contradictions.

    Args:
        main: readings of the main setting.
        every: readings of all settings.
        baseline: metric of the untouched model.
        can_claim: whether the model does the task, on prompts enough to claim an effect; without it, no effect says
            nothing.
    """
    ablations = [one for one in main if one.family == ABLATION]
    direct = [one for one in main if one.family == DIRECT]
    found = [
        score_without_effect(main, ablations, direct) if can_claim else None,
        effect_without_score(main, [*ablations, *direct], baseline),
        operators_disagree(ablations) if can_claim else None,
        *sign_flips(every),
    ]
    return tuple(flag for flag in found if flag is not None)


def score_without_effect(
    main: Sequence[Reading], ablations: Sequence[Reading], direct: Sequence[Reading]
) -> Flag | None:
    """High attention to what a kind of head looks at, and nothing lost without it on the same prompts."""
    if not ablations or any(one.claimed for one in (*ablations, *direct)):
        return None
    high = [one for one in main if one.family in LOOKS and one.task == ablations[0].task and is_high(one)]
    if not high:
        return None
    named = listed([f"{one.question} {number(one.value)}" for one in high])
    operators = listed([one.question.removeprefix(f"{ABLATION}: ") for one in ablations])
    says = f"It scores high ({named}), yet no ablation of it ({operators}) tells it from its controls."
    return Flag(NO_EFFECT, says, tuple(one.question for one in (*high, *ablations)))


def effect_without_score(main: Sequence[Reading], effects: Sequence[Reading], baseline: float) -> Flag | None:
    """The model loses or gains much without it, and no score of what it looks at or does says why."""
    large = [one for one in effects if one.claimed and abs(one.value) >= LARGE * abs(baseline)]
    asked = [one for one in main if one.family in EXPLAINS]
    if not large or not asked or any(is_high(one) for one in asked):
        return None
    named = listed([f"{one.question} {number(one.value, signed=True)}" for one in large])
    says = f"It matters ({named}, of {number(baseline)}), yet none of {len(asked)} scores of kinds of heads is high."
    return Flag(NO_SCORE, says, tuple(one.question for one in large))


def operators_disagree(ablations: Sequence[Reading]) -> Flag | None:
    """Claimed under some operators, where others find nothing (and not only a little less); or with both signs."""
    claimed = [one for one in ablations if one.claimed]
    signs = {one.value > 0 for one in claimed}
    lost = [one for one in ablations if not one.claimed and one.q >= SURE]
    if not claimed or (not lost and len(signs) == 1):
        return None
    named = listed(
        [
            f"{one.question.removeprefix(f'{ABLATION}: ')} {number(one.value, signed=True)}"
            f"{'' if one.claimed else ' (not claimed)'}"
            for one in ablations
        ]
    )
    what = "with both signs" if len(signs) == 2 else f"under {len(claimed)} of {len(ablations)} operators"
    return Flag(OPERATORS, f"Its effect is claimed {what}: {named}.", tuple(one.question for one in ablations))


def sign_flips(every: Sequence[Reading]) -> list[Flag]:
    """Effects whose intervals lie above 0 under one way of drawing prompts and below it under another."""
    flags = []
    for question in dict.fromkeys(one.question for one in every if one.family in SIGNED):
        own = [one for one in every if one.question == question]
        ends = [next((one for one in own if one.side == side), None) for side in (1, -1)]
        if ends[0] is not None and ends[1] is not None:
            says = f"{question} changes its sign: " + ", ".join(
                f"{number(one.value, signed=True)} under {one.setting}" for one in ends if one is not None
            )
            flags.append(Flag(FLIPS, f"{says}.", (question,)))
    return flags
