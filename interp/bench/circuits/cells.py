"""`Cell`: how one contender did on one truth, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from time import perf_counter

import numpy as np

from interp.bench.circuits.contenders import Contender, Rows
from interp.bench.circuits.truths import Case
from interp.circuits.graph.graph import Scores
from interp.circuits.judging.ranking import auroc, average_precision
from interp.hooks.rerun.memory import peak
from interp.kernels.errors import InterpError

FLOOR = 1e-3
"""Share of the largest score below which scores count as 0 in the figures that have a floor."""

LONGEST = 1.0
"""Seconds of a run that is made a second time, to count its memory."""


@dataclass(frozen=True)
class Cell:
    """One contender on one truth. Figures are None where it refused, and there `error` says why.

    Edges are ranked by the mean over prompts of the size of their scores: a truth says that an edge matters, not which
    way, and an edge that helps one prompt and hurts the next is no less true.

    Attributes:
        model, ablation: the truth.
        contender: its name.
        precision: average precision, over the full ranking.
        floored: the same with a relative floor of `FLOOR`.
        netted: the same (without floor) by the size of the mean score, where prompts cancel.
        auroc: area under the ROC curve, full ranking.
        auroc_floored: the same with the floor.
        silent: true edges that score exactly 0, mean over draws.
        forwards: cost, see `Ranked.forwards`.
        seconds: wall time of one run on all prompts.
        mib: most that its tensors held at a time, counted in a second run; None where that would take too long.
        error: code and text.
    """

    model: str
    ablation: str
    contender: str
    precision: float | None = None
    floored: float | None = None
    netted: float | None = None
    auroc: float | None = None
    auroc_floored: float | None = None
    silent: float | None = None
    forwards: float | None = None
    seconds: float | None = None
    mib: float | None = None
    error: str = ""

    @property
    def truth(self) -> str:
        return f"{self.model}, {self.ablation}"


def measure(case: Case, contender: Contender, seed: int = 0) -> Cell:
    """Run a contender and judge its ranking; a refusal becomes a cell that says so."""
    truth, start = case.truth, perf_counter()
    blank = Cell(truth.model, truth.ablation, contender.name)
    try:
        found = contender.run(case, seed)
        seconds = perf_counter() - start
        figures = [judged(case, rows) for rows in found.draws]
    except InterpError as error:
        return replace(blank, error=f"INTERP-{error.code}: {error.what}")
    means = {name: fmean(each[name] for each in figures) for name in figures[0]}
    mib = peak(lambda: contender.run(case, seed)) / 2**20 if seconds <= LONGEST else None
    return replace(blank, forwards=found.forwards, seconds=seconds, mib=mib, **means)  # type: ignore[arg-type]


def strength(rows: Rows) -> Scores:
    """What edges are ranked by, see `Cell`."""
    found: Scores = np.abs(rows).mean(0)
    return found


def judged(case: Case, rows: Rows) -> dict[str, float]:
    """Figures of one ranking, by their names in `Cell`.

    Raises:
        InterpError: E207 scores that are not finite numbers.
    """
    graph, truth, score = case.graph, case.edges, strength(rows)
    return {
        "precision": average_precision(graph, score, truth),
        "floored": average_precision(graph, score, truth, floor=FLOOR),
        "netted": average_precision(graph, rows.mean(0), truth),
        "auroc": auroc(graph, score, truth),
        "auroc_floored": auroc(graph, score, truth, floor=FLOOR),
        "silent": float((score[truth] == 0).sum()),
    }
