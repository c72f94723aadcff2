"""Backup heads: parts whose direct effect on the answer rises when a head is taken away.

Direct effect of a part: what the metric loses when its edge to the logits alone is out. Self-repair of a head: its direct
effect less what taking it away as a whole costs, which is what others make good. Wang et al. 2022 (arXiv 2211.00593, section
3.3); McGrath et al. 2023, The Hydra Effect (arXiv 2307.15771).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.circuits.evidence import benjamini_hochberg, bootstrap_interval, sign_flip_p
from interp.circuits.graph.graph import Edges, Graph
from interp.circuits.judging.findings import Values
from interp.circuits.tables import Tabled, interval, number
from interp.kernels.errors import InterpError, suggest


@dataclass(frozen=True)
class Backup:
    """One part beside the one that is away.

    Attributes:
        before, after: direct effect with everything in, and with the other part away.
        rise: after less before, with its interval.
        q: of no rise or fall, after false-discovery control over all parts.
        is_backup: q at or below the level, and a rise whose interval is beyond the floor.
    """

    label: str
    before: float
    after: float
    rise: float
    low: float
    high: float
    q: float
    is_backup: bool


@dataclass(frozen=True)
class SelfRepair(Tabled):
    """Made by `self_repair`.

    Attributes:
        removed: the part that is away.
        direct: its direct effect.
        total: what taking it away costs.
        repair: direct less total, with its interval; below 0 where it works through others.
        parts: all others, largest rise first.
    """

    removed: str
    direct: float
    total: float
    repair: float
    low: float
    high: float
    parts: tuple[Backup, ...]

    @property
    def backups(self) -> tuple[str, ...]:
        return tuple(one.label for one in self.parts if one.is_backup)

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        rows = [
            [one.label, *map(number, (one.before, one.after, one.rise)), interval(one.low, one.high), number(one.q)]
            for one in self.parts
        ]
        title = f"without {self.removed}: backups {', '.join(self.backups) or 'none'}"
        remark = f"it does {number(self.direct)} directly, and taking it away costs {number(self.total)}: "
        remark += f"self-repair {number(self.repair)} {interval(self.low, self.high)}"
        return title, ["part", "before", "after", "rise", "interval", "q"], rows, [remark]


def self_repair(
    graph: Graph, removed: str, values: Values, *, floor: float = 0.02, level: float = 0.05, seed: int = 0
) -> SelfRepair:
    """Take a part away and see whose direct effect rises.

    Args:
        removed: a head or MLP.
        floor: share of |m(M) - m(nothing)| that a rise must exceed.

    Raises:
        InterpError: E201 no such part.
    """
    if removed not in graph.writer_index:
        raise InterpError("E201", f"no part {removed!r}", fix=suggest(removed, graph.writer_index))
    own = graph.writer_index[removed]
    others = [index for index, part in enumerate(graph.writers) if part.kind != "embed" and index != own]
    away = graph.full.copy()
    away[:, own] = False
    runs = [graph.full, graph.none, away, _silent(graph.full, own)]
    found = values([*runs, *(_silent(kept, index) for index in others for kept in (graph.full, away))])
    full, empty, without, direct = found[:4]
    before, after = full - found[4::2], without - found[5::2]
    rise, least = after - before, floor * abs(float((full - empty).mean()))
    q = benjamini_hochberg(sign_flip_p(rise, n_permutations=max(9999, int(2 * len(rise) / level)), seed=seed))
    low, high = bootstrap_interval(rise, level=level, seed=seed)
    parts = [
        Backup(
            graph.writers[index].label,
            float(before[row].mean()), float(after[row].mean()), float(rise[row].mean()),
            float(low[row]), float(high[row]), float(q[row]), bool(q[row] <= level and low[row] > least),
        )
        for row, index in enumerate(others)
    ]  # fmt: skip
    repair = (full - direct) - (full - without)
    start, stop = bootstrap_interval(repair[None], level=level, seed=seed)
    return SelfRepair(
        removed, float((full - direct).mean()), float((full - without).mean()), float(np.mean(repair)),
        float(start[0]), float(stop[0]), tuple(sorted(parts, key=lambda one: -one.rise)),
    )  # fmt: skip


def _silent(edges: Edges, writer: int) -> Edges:
    """Without what a part writes to the logits."""
    fewer = edges.copy()
    fewer[:, writer, -1] = False
    return fewer
