"""A circuit in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.circuits.tables import interval, number

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
    cpr, cmd = found.cpr, found.cmd
    lines.append(
        f"CPR {number(cpr.value)} {interval(cpr.low, cpr.high)}, CMD {number(cmd.value)} {interval(cmd.low, cmd.high)}"
    )
    for row in found.ablations:
        kept = f"keeps {number(row.f)} {interval(row.low, row.high)}"
        lines.append(f"under {row.replacement} ablation: {row.note or kept}")
    return lines
