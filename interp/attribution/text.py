"""A direct logit attribution in one sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.tables import counted, listed, number

if TYPE_CHECKING:
    from interp.attribution.result import AttributionResult


def headline(result: AttributionResult) -> str:
    """One sentence: which heads write towards or against the answer, or why none is claimed."""
    found, task = result.evidence, result.run.task["name"]
    n_claimed = int(found.claimed.sum())
    tested = f"{counted(found.n_tested, 'head')}, {counted(len(result.prompts), 'prompt')}"
    if n_claimed:
        named = listed([f"{row.label} {number(row.mean, signed=True)}" for row in result.top(n_claimed)])
        write = f"{'writes' if n_claimed == 1 else 'write'} directly for or against the answer"
        level = f"{100 * found.level:g} % false discoveries"
        return f"{n_claimed} of {counted(found.n_tested, 'head')} {write} on {task} ({level}): {named}."
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
