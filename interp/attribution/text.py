"""A direct logit attribution as text: its headline, its terminal form and its notebook form."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from interp.ablation.text import NAMED, cells, counted, number

if TYPE_CHECKING:
    from interp.attribution.result import AttributionResult

COLUMNS = ("part", "share", "interval", "controls", "q", "claimed", "note")


def headline(result: AttributionResult) -> str:
    """One sentence: which heads write towards or against the answer, or why none is claimed."""
    found, task = result.evidence, result.run.task["name"]
    n_claimed = int(found.claimed.sum())
    tested = f"{counted(found.n_tested, 'head')}, {counted(len(result.prompts), 'prompt')}"
    if n_claimed:
        named = ", ".join(f"{row.label} {number(row.mean, signed=True)}" for row in result.top(n_claimed)[:NAMED])
        more = f" and {n_claimed - NAMED} more" if n_claimed > NAMED else ""
        write = f"{'writes' if n_claimed == 1 else 'write'} directly for or against the answer"
        level = f"{100 * found.level:g} % false discoveries"
        return f"{n_claimed} of {counted(found.n_tested, 'head')} {write} on {task} ({level}): {named}{more}."
    if not found.n_tested:
        return f"No head has a control to be compared with: no claim about heads on {task}."
    if not found.can_claim:
        return f"Too few prompts for a claim about any head on {task} ({tested}: no p below {number(found.p_floor)})."
    if not found.does_task:
        mean = number(float(np.nanmean(result.logit_diff)))
        p = number(found.p_behaviour)
        return f"The model does not do this task (mean logit difference {mean}, p = {p}): no claim about heads."
    constant = [row for row in result.top(1) if math.isnan(row.ci_low) and not math.isnan(row.q)]
    if constant:
        share = number(constant[0].mean, signed=True)
        return (
            f"{constant[0].label} writes {share} in every prompt of {task} alike, which no test over prompts can judge."
        )
    return f"No head writes more than random heads for or against the answer on {task} ({tested})."


def summary_line(result: AttributionResult) -> str:
    """The mean logit difference as a sum over kinds of parts."""
    shares = {kind: float(np.nanmean(values)) for kind, values in result.share_by_kind().items()}
    terms = " ".join(f"{kind} {number(value, signed=True)}" for kind, value in shares.items())
    worst = float(np.nanmax(np.abs(result.remainder), initial=0.0))
    return f"mean logit difference {number(float(np.nanmean(result.logit_diff)))} = {terms} (rounding {worst:.1e})"


def as_text(result: AttributionResult) -> str:
    """The headline, the sum, and the largest parts with interval, control mean and q."""
    size = f"{counted(len(result.parts), 'part')} x {counted(len(result.prompts), 'prompt')}"
    about = f"{result.run.model['name']}, {result.run.task['name']}, position {result.run.method['position']}; {size}"
    table = [COLUMNS, *(cells(row) for row in result.top())]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n  ".join([f"AttributionResult({about}): {result.headline()}", summary_line(result), *lines])


def as_html(result: AttributionResult) -> str:
    """The same as a small table; every text is escaped."""
    about = f"{result.run.model['name']}, {result.run.task['name']}: {result.headline()}"
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(row))}</tr>" for row in result.top())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<p>{escape(about)}</p><p>{escape(summary_line(result))}</p>{table}"
