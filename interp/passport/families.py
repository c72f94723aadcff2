"""What kind of answer each scorer gives, and which of them a passport asks for."""

from __future__ import annotations

from collections.abc import Sequence

from interp.heads import scorer as scorer_of
from interp.heads import scorers as all_scorers
from interp.heads.attention import TargetScorer
from interp.heads.scorer import Scorer
from interp.kernels.errors import InterpError, suggest

ATTENTION, PLACE, SHAPE = "attention", "place", "shape"

LOOKS = frozenset({ATTENTION, "retrieval"})
"""Families of scores that say what a head looks at: without an effect they are an appearance."""

EXPLAINS = frozenset({ATTENTION, PLACE, "retrieval", "answers", "safety", "vision"})
"""Families of scores that would explain why a head matters."""

SIGNED = frozenset({"ablation", "direct", "effects", "answers"})
"""Families whose numbers say for or against: a sign that changes is a contradiction there."""

SLOW = {
    "gate": "it is trained, which takes minutes",
    **{f"{side}-composition": "it is held against random weights for every pair of heads" for side in "qkv"},
}
"""Scorers that 'all fitting' leaves to those who name them."""

FITTING, EVERY = "all fitting", "all"
ALWAYS = ("attention-distance", "entropy")
"""What a passport shows of every head's attention, whichever scorers are asked for."""

GENERIC = "induction"
"""Scorers whose own prompts are repeated random tokens read any prompts."""


def family(scorer: Scorer) -> str:
    """Folder of the scorer, with patterns told apart: kinds of token (attention), places, and shape."""
    folder = type(scorer).__module__.removeprefix("interp.heads.").partition(".")[0]
    if folder != "patterns":
        return folder
    if type(scorer).__module__.endswith(".place"):
        return PLACE
    return ATTENTION if isinstance(scorer, TargetScorer) else SHAPE


def asked_scorers(given: str | Sequence[str | Scorer]) -> tuple[tuple[Scorer, ...], dict[str, str]]:
    """The scorers that are asked for, and name -> why not for others.

    Args:
        given: `FITTING`, `EVERY`, one name, or names and records.

    Raises:
        InterpError: E201 unknown name; E205 one scorer twice.
    """
    if given in (FITTING, EVERY):
        slow = SLOW if given == FITTING else {}
        names = [name for name in all_scorers() if name not in slow]
        left = {name: f"slow: {why}; name it in scorers to have it" for name, why in slow.items()}
        return tuple(scorer_of(name) for name in names), {name: left[name] for name in left if name in all_scorers()}
    listed = [given] if isinstance(given, str) else list(given)
    unknown = [one for one in listed if isinstance(one, str) and one not in all_scorers()]
    if unknown:
        fix = f"{suggest(unknown[0], all_scorers())}; or {FITTING!r}"
        raise InterpError("E201", f"no scorer is called {unknown[0]!r}", where="passport", fix=fix)
    found = [scorer_of(one) for one in listed]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise InterpError("E205", "one scorer twice", where=", ".join(names), fix="name each once")
    return (*found, *(scorer_of(name) for name in ALWAYS if name not in names)), {}


def reads(scorer: Scorer, task: str) -> bool:
    """Whether a scorer reads the passport's prompts, and not those of a task of its own."""
    return bool(scorer.task) and scorer.task in (GENERIC, task)
