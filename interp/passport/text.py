"""A passport in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.circuits.tables import counted, listed, number
from interp.passport.reading import ABLATION

if TYPE_CHECKING:
    from interp.passport.result import Passport


def headline(passport: Passport) -> str:
    """What it is called, what its ablation costs, and how many contradictions there are."""
    names = listed([label.name for label in passport.labels])
    called = f"{passport.head}: {names}" if names else f"{passport.head}: no kind of head that was asked about"
    n = len(passport.flags)
    flagged = f"{counted(n, 'flag')} ({listed([flag.kind for flag in passport.flags])})" if n else "no flags"
    return f"{called}; {_cost(passport)}; {flagged}."


def _cost(passport: Passport) -> str:
    """What ablation says."""
    effects = [one for one in passport.main if one.family == ABLATION]
    if not effects:
        return "not ablated"
    claimed = [one for one in effects if one.claimed]
    metric = passport.run.task.get("metric", "metric")
    if not claimed:
        why = (
            "" if passport.run.method["can_claim"] else ": the model does not do the task, or there are too few prompts"
        )
        return f"no claimed effect on {passport.run.task['name']} under {counted(len(effects), 'operator')}{why}"
    named = listed(
        [f"{one.question.removeprefix(f'{ABLATION}: ')} {number(one.value, signed=True)}" for one in claimed]
    )
    return f"{metric} of {passport.run.task['name']} ({number(passport.baseline)}) without it: {named}"


def remarks(passport: Passport) -> list[str]:
    """Labels, flags, sink, what was left out, and what it took."""
    lines = [f"called {label.name}: {', '.join(label.because)}" for label in passport.labels]
    lines += [f"flag, {flag.kind}: {flag.says}" for flag in passport.flags]
    sink = passport.sink
    if sink is not None:
        apart = f"; criteria disagree: {sink.disagreement}" if sink.disagreement else ""
        lines.append(
            f"sink: {sink.verdict}; {number(sink.received)} of its attention on {sink.role} (even: {number(sink.even)}), "
            f"{number(sink.rests)} of its queries rest{apart}"
        )
    reasons: dict[str, list[str]] = {}
    for name, why in passport.left_out.items():
        reasons.setdefault(why, []).append(name)
    lines += [f"not asked: {', '.join(names)} ({why})" for why, names in reasons.items()]
    seconds = passport.run.method["seconds"]
    lines.append("seconds: " + ", ".join(f"{name} {number(value)}" for name, value in sorted(seconds.items())))
    return lines
