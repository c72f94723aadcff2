"""A head ablation in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.circuits.evidence import is_varied, moments
from interp.circuits.tables import counted, listed, number

if TYPE_CHECKING:
    from interp.ablation.result import AblationResult


def headline(result: AblationResult) -> str:
    """One sentence: which heads matter, or why none is claimed."""
    found, task, operator = result.evidence, result.run.task["name"], result.run.method["operator"]
    n_claimed = int(found.claimed.sum())
    if n_claimed:
        named = listed([f"{row.label} {number(row.mean, signed=True)}" for row in result.top(n_claimed)])
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
