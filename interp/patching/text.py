"""A result of patching in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from interp.circuits.evidence import Effect, moments
from interp.circuits.tables import counted, listed, number

if TYPE_CHECKING:
    from interp.patching.result import PatchResult

NOUNS = {"query_head": "head", "kv_head": "key/value head", "layer": "layer", "group": "group"}


def headline(result: PatchResult) -> str:
    """One sentence: which cells matter, or why none is claimed."""
    found, task = result.evidence, result.run.task["name"]
    n_claimed = int(found.claimed.sum())
    tested = f"{counted(found.n_tested, noun(result))}, {counted(len(result.prompts), 'prompt')}"
    if n_claimed:
        named = listed([f"{row.label} {size(result, row)}" for row in result.top(n_claimed)])
        verb = "matters" if n_claimed == 1 else "matter"
        share = f"{n_claimed} of {counted(found.n_tested, noun(result))} {verb}"
        return f"{share} on {task} under {asked(result)} ({100 * found.level:g} % false discoveries): {named}."
    if not found.n_tested:
        row = result.top(1)[0]
        what = f"the largest effect is that of {row.label}, {size(result, row)}"
        return f"Nothing here has a control to be compared with, so nothing is claimed on {task}; {what}."
    if not found.can_claim:
        return f"Too few prompts for a claim about any {noun(result)} on {task} ({tested}: no p below {number(found.p_floor)})."
    if not found.does_task:
        mean, p = number(_mean(result.clean)), number(found.p_behaviour)
        return f"The model does not do this task (mean {result.metric} {mean}, p = {p}): no claim."
    return f"No {noun(result)} is distinguishable from its controls on {task} under {asked(result)} ({tested})."


def noun(result: PatchResult) -> str:
    """What a cell is."""
    is_grid = any(cell.place is not None for cell in result.cells)
    return "cell" if is_grid else NOUNS[str(result.run.method["axis"])]


def asked(result: PatchResult) -> str:
    """`denoising of z`, `noising of paths to logits`."""
    method = result.run.method
    return f"{result.direction.removesuffix('e')}ing of {method['points']}"


def size(result: PatchResult, row: Effect) -> str:
    """An effect, and its share of the gap between both runs where there is one."""
    if math.isnan(row.normalised):
        return number(row.mean, signed=True)
    share = row.normalised if result.direction == "denoise" else 1 - row.normalised
    return f"{number(row.mean, signed=True)} ({share:.0%} of the gap)"


def both_runs(result: PatchResult) -> str:
    """The two runs that effects lie between, and how many prompts have nothing between them."""
    ends = f"mean {result.metric} {number(_mean(result.clean))} clean, {number(_mean(result.corrupt))} corrupt"
    without = int((~result.has_gap).sum())
    if not without:
        return f"{ends}; they differ in every prompt"
    return f"{ends}; in {counted(without, 'prompt')} they do not differ, so no share of the gap is taken there"


def _mean(values: object) -> float:
    return float(moments(values[None, :])[1][0])  # type: ignore[index]
