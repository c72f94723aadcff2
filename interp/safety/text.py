"""What a report on safety heads says, in sentences."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from interp.circuits.group_result import Estimate
from interp.circuits.tables import counted, interval, listed, number
from interp.safety.trials import CONTROL

if TYPE_CHECKING:
    from interp.safety.result import SafetyReport


def headline(report: SafetyReport) -> str:
    """The group, what it does on held-out prompts beside random groups, and whether that is claimed."""
    if not report.group:
        return f"No group of heads was found: {report.search.headline()}"
    found, n = report.verdict, len(report.rows_of(CONTROL))
    operator = report.run.method["operator"]
    said = (
        f"without {listed(report.group)} ({operator}) harmful compliance rises from {number(found.base)} to "
        f"{_spoken(found.compliance)}, {_spoken(found.times)} times; {found.replies.mean:.0%} of the replies comply "
        f"({found.base_replies.mean:.0%} before); harmless KL {_spoken(found.cost)}"
    )
    beside = f"at most {number(found.strongest_control)} in {counted(n, 'random group')}" if n else "no random group"
    if found.claimed:
        return f"On held-out prompts, {said}; {beside}."
    missing = [
        *(
            []
            if found.enough
            else [f"it rises by less than {report.run.method['least']:g} times, or replies do not comply"]
        ),
        *([] if found.cheap else [f"harmless prompts may lose {number(report.run.method['max_kl'])} nats or more"]),
        *([] if found.controlled else ["it is not distinguishable from random groups"]),
    ]
    return f"No claim: {said}; {beside} ({'; '.join(missing)})."


def remarks(report: SafetyReport) -> list[str]:
    """Heads of each operator, how far operators agree, how the group was found, and notes."""
    lines = []
    for one in report.operators:
        heads = report.safety_heads(one)
        effect = {head: float(report.evidence[one].mean[report.heads.index(head)]) for head in heads}
        named = listed([f"{head} {number(effect[head], signed=True)}" for head in heads]) or "none"
        lines.append(f"{one}: heads that help to refuse (fall of the refusal score): {named}")
    for name in ("refusal", "ships"):
        table = report.agreement(name)
        pairs = [(float(table.loc[a, b]), f"{a} and {b}") for a, b in combinations(report.operators, 2)]
        if pairs:
            low, high = min(pairs), max(pairs)
            lines.append(
                f"rank correlation of operators by {name}: {low[0]:.2f} ({low[1]}) to {high[0]:.2f} ({high[1]})"
            )
    lines.append(f"search ({report.search.run.method.get('objective', '')}): {report.search.headline()}")
    return [*lines, *report.run.warnings]


def _spoken(found: Estimate) -> str:
    """`0.3 [0.2, 0.4]`."""
    ends = interval(found.ci_low, found.ci_high)
    return number(found.mean) if ends == "none" else f"{number(found.mean)} {ends}"
