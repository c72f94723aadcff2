"""A head ablation as text: its headline, its terminal form and its notebook form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from interp.circuits.evidence import is_varied, moments

if TYPE_CHECKING:
    from interp.ablation.result import AblationResult, HeadEffect

COLUMNS = ("head", "effect", "interval", "controls", "q", "claimed", "note")
NAMED = 5
"""Heads a headline names."""


def headline(result: AblationResult) -> str:
    """One sentence: which heads matter, or why none is claimed."""
    found, task, operator = result.evidence, result.run.task["name"], result.run.method["operator"]
    n_claimed = int(found.claimed.sum())
    if n_claimed:
        named = ", ".join(f"{row.label} {number(row.mean, signed=True)}" for row in result.top(n_claimed)[:NAMED])
        named += f" and {n_claimed - NAMED} more" if n_claimed > NAMED else ""
        share = f"{n_claimed} of {counted(found.n_tested, 'head')} {'matters' if n_claimed == 1 else 'matter'}"
        return f"{share} for {task} under {operator} ablation ({100 * found.level:g} % false discoveries): {named}."
    tested = f"{counted(found.n_tested, 'head')}, {counted(len(result.prompts), 'prompt')}"
    if not found.n_tested:
        return f"No head has a control to be compared with: no claim about heads on {task}."
    if not found.can_claim:
        return f"Too few prompts for a claim about any head on {task} ({tested}: no p below {number(found.p_floor)})."
    if not found.does_task:
        return _not_done(result)
    return f"No head is distinguishable from random heads on {task} under {operator} ablation ({tested})."


def _not_done(result: AblationResult) -> str:
    """Why the model cannot be said to do the task."""
    clean, mean = result.baseline[None, :], number(float(moments(result.baseline[None, :])[1][0]))
    if not is_varied(clean)[0]:
        return f"Every prompt has the same {result.metric} ({mean}), so nothing can be tested: no claim about heads."
    p = number(result.evidence.p_behaviour)
    return f"The model does not do this task (mean {result.metric} {mean}, p = {p}): no claim about heads."


def as_text(result: AblationResult) -> str:
    """One line, and the top heads with interval, control mean and q."""
    missing = f", {result.n_not_finite} rows not finite" if result.n_not_finite else ""
    size = f"{counted(len(result.heads), 'head')} x {counted(len(result.prompts), 'prompt')}{missing}"
    about = f"{result.run.model['name']}, {result.run.task['name']}, {result.metric}; {size}"
    table = [COLUMNS, *(cells(row) for row in result.top())]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n  ".join([f"AblationResult({about}): {result.headline()}", *lines])


def as_html(result: AblationResult) -> str:
    """The same as a small table; every text is escaped."""
    about = f"{result.run.model['name']}, {result.run.task['name']}, {result.metric}: {result.headline()}"
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(row))}</tr>" for row in result.top())
    return f"<p>{escape(about)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cells(row: HeadEffect) -> Sequence[str]:
    """One head's line of the table, in the order of `COLUMNS`."""
    interval = "none" if math.isnan(row.ci_low) else f"[{number(row.ci_low)}, {number(row.ci_high)}]"
    effect = number(row.mean, signed=True)
    return (
        row.label,
        effect,
        interval,
        number(row.control_mean, signed=True),
        number(row.q),
        "yes" if row.claimed else "no",
        row.note,
    )


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits; a dash for a missing number."""
    if math.isnan(value):
        return "-"
    return f"{value:+.3g}" if signed else f"{value:.3g}"


def counted(n: int, noun: str) -> str:
    """`1 head`, `2 heads`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
