"""A circuit in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from interp.circuits.tables import counted, interval, number

if TYPE_CHECKING:
    from interp.discovery.result import Circuit

MOST = 8


def headline(found: Circuit) -> str:
    """How small, how faithful, and against what."""
    f = found.faithfulness
    task, judge = found.run.task, found.run.method["judge"]
    kept = f"{found.n_edges} of {found.graph.n_edges} edges ({found.share:.1%}) keep {number(f.value)}"
    kept += f" {interval(f.low, f.high)} of the {task['metric']} gap on {judge['kept']} other prompts"
    if not len(found.random):
        return f"{kept}; no random circuits were asked for"
    if found.beaten_by:
        share = f"{found.beaten_by} of {len(found.random)} random circuits of this size keep as much"
        return f"{kept}; not distinguishable from random circuits: {share}"
    return f"{kept}; none of {len(found.random)} random circuits of this size keeps as much"


def remarks(found: Circuit) -> list[str]:
    """How it was chosen, its parts, areas and the table of replacements."""
    method = found.run.method
    lines = [f"chosen: {method['chosen']} ({method['method']}, {method['ablation']} ablation)"]
    for name, parts in (("heads", found.heads), ("MLPs", found.mlps)):
        shown = ", ".join(list(parts)[:MOST]) or "none"
        more = f" and {len(parts) - MOST} more" if len(parts) > MOST else ""
        lines.append(f"{name}: {shown}{more}")
    lines += needed(found)
    cpr, cmd = found.cpr, found.cmd
    lines.append(
        f"CPR {number(cpr.value)} {interval(cpr.low, cpr.high)}, CMD {number(cmd.value)} {interval(cmd.low, cmd.high)}"
    )
    if (steady := found.stability) is not None:
        lines.append(
            f"halves of the prompts have {number(steady.jaccard)} of their best {steady.n} edges in common "
            f"(chance {number(steady.chance)})"
        )
    for row in found.ablations:
        kept = f"keeps {number(row.f)} {interval(row.low, row.high)}"
        lines.append(f"under {row.replacement} ablation: {row.note or kept}")
    return lines


def needed(found: Circuit) -> list[str]:
    """What is lost without single parts, beside as many random edges of others."""
    if not found.parts:
        return []
    most = found.parts[0]
    line = f"without {most.label} {number(most.kept.value)} {interval(most.kept.low, most.kept.high)} is kept"
    if most.random:
        line += f", without as many random edges of other parts {number(float(np.median(most.random)))}"
    tried = [one for one in found.parts if one.random]
    if not tried:
        return [line]
    telling, chance = sum(one.stands_out for one in tried), sum(1 / (len(one.random) + 1) for one in tried)
    more = f"{telling} of {counted(len(tried), 'part')} cost more than every random set of edges"
    return [f"{line}; {more} (by chance {number(chance)})"]


def refutations(found: Circuit) -> list[list[str]]:
    """Each claim, what would refute it, and what was seen."""
    f, rows = found.faithfulness, []
    rows.append([
        f"these {found.n_edges} edges carry the task", "other prompts of which they keep little of the gap",
        f"{number(f.value)} {interval(f.low, f.high)} on {len(found.prompts)} prompts that had no part in the choice",
    ])  # fmt: skip
    if len(found.random):
        best = number(float(found.random_faithfulness.max()))
        rows.append([
            "it is these edges, and not their number", "random circuits of this size that keep as much",
            f"{found.beaten_by} of {len(found.random)}; the best keeps {best}",
        ])  # fmt: skip
    for row in found.beside:
        seen = row.note or f"{number(row.f)} {interval(row.low, row.high)}"
        rows.append(["it does not hang on what stands in", f"little kept under {row.replacement} ablation", seen])
    if (steady := found.stability) is not None:
        rows.append([
            "the ranking is the task's, not these prompts'", "halves of the prompts that choose other edges",
            f"{number(steady.jaccard)} of the best {steady.n} in common ({number(steady.low)} to "
            f"{number(steady.high)}; chance {number(steady.chance)})",
        ])  # fmt: skip
    seen = "not asked for: checks=True (--checks)"
    if found.checks is not None:
        names = [" + ".join(one.labels) for one in found.checks.redundant[:3]]
        seen = ", ".join(names) or f"none of {found.checks.tried} pairs"
        if len(found.checks.redundant) > len(names):
            seen += f" and {len(found.checks.redundant) - len(names)} more"
    rows.append(["no part hides behind another", "parts that cost little alone and much together", seen])
    return rows
