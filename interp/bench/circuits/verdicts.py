"""What is expected of the table, checked: which statements hold, and every cell that speaks against one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.circuits.summary import PERFECT
from interp.bench.circuits.table import CircuitBench
from interp.bench.circuits.truths import Asked

WRITTEN = ("planted", "compiled")
"""Kinds of models whose weights are made by hand or by a compiler."""

LEARNED = "trained to order"
GOOD = 0.9
BELOW = ("codes", "random")
"""Contenders that every method must beat."""


@dataclass(frozen=True)
class Verdict:
    """One statement.

    Attributes:
        met: None where nothing was measured that it is about.
        found: what was found, in one sentence.
        against: cells that speak against it.
        facts: further figures behind it.
    """

    says: str
    met: bool | None
    found: str
    against: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """How it is printed."""
        return {True: "met", False: "NOT MET", None: "not measured"}[self.met]


def verdicts(bench: CircuitBench) -> list[Verdict]:
    """All statements, in order."""
    integrated = [row.name for row in bench.rows if row.method == "eap-ig"]
    return [
        *(perfect(bench, name) for name in ("exact", *integrated)),
        beyond_plain(bench),
        learned(bench),
        *(beaten(bench, name) for name in BELOW),
    ]


def perfect(bench: CircuitBench, name: str) -> Verdict:
    """A contender finds all true edges of planted and compiled models first."""
    says = f"{name} has average precision 1 on every planted and compiled model"
    truths = _asked(bench, bench.of_kind(*WRITTEN), name)
    if not truths:
        return Verdict(says, None, "not measured")
    missed = [truth for truth in truths if (bench.precision(truth.name, name) or 0) < PERFECT]
    found = f"on {len(truths) - len(missed)} of {len(truths)}"
    return Verdict(says, not missed, found, tuple(_shown(bench, truth, name) for truth in missed))


def beyond_plain(bench: CircuitBench) -> Verdict:
    """Where the gradient at the clean run misses edges, methods that integrate find more of them."""
    says = "where plain eap falls short on planted and compiled models, a method that integrates gradients beats it"
    rows = [row.name for row in bench.methods if row.steps]
    truths = _asked(bench, bench.of_kind(*WRITTEN), "eap")
    short = [truth for truth in truths if (bench.precision(truth.name, "eap") or 0) < PERFECT]
    if not rows or not short:
        return Verdict(says, None, "eap falls short nowhere" if truths else "not measured")
    against: list[str] = []
    facts: list[str] = []
    for truth in short:
        plain, (name, value) = bench.precision(truth.name, "eap") or 0.0, _best(bench, truth, rows)
        line = f"{truth.name}: eap {plain:.2f}, {name} {value:.2f}"
        (facts if value > plain else against).append(line)
    return Verdict(says, not against, f"on {len(facts)} of {len(short)}", tuple(against), tuple(facts))


def learned(bench: CircuitBench) -> Verdict:
    """On each model trained to order some method does well."""
    says = f"on every model trained to order the best method reaches {GOOD}"
    truths = bench.of_kind(LEARNED)
    if not truths or not bench.methods:
        return Verdict(says, None, "not measured")
    best = [(truth, *_best(bench, truth, [row.name for row in bench.methods])) for truth in truths]
    lines = [f"{truth.name}: {name} {value:.2f}" for truth, name, value in best]
    poor = tuple(line for line, (_, _, value) in zip(lines, best, strict=True) if value < GOOD)
    return Verdict(says, not poor, f"on {len(best) - len(poor)} of {len(best)}", poor, tuple(lines))


def beaten(bench: CircuitBench, name: str) -> Verdict:
    """Every method does better than a contender on every truth that both answer."""
    says = f"{name} is beaten by every method on every model"
    pairs = [
        (truth, row, value, own)
        for truth in _asked(bench, bench.truths, name)
        for row in bench.methods
        if (value := bench.precision(truth.name, row.name)) is not None
        and (own := bench.precision(truth.name, name)) is not None
    ]
    if not pairs:
        return Verdict(says, None, "not measured")
    against = tuple(
        f"{truth.name}: {row.name} {value:.2f}, {name} {own:.2f}" for truth, row, value, own in pairs if value <= own
    )
    return Verdict(says, not against, f"in {len(pairs) - len(against)} of {len(pairs)} comparisons", against)


def _asked(bench: CircuitBench, truths: Sequence[Asked], name: str) -> list[Asked]:
    """Truths, where this contender took part at all."""
    return list(truths) if any(row.name == name for row in bench.rows) else []


def _best(bench: CircuitBench, truth: Asked, rows: Sequence[str]) -> tuple[str, float]:
    """The contender with the largest average precision, the first of equal ones."""
    values = [(name, bench.precision(truth.name, name) or 0.0) for name in rows]
    return max(values, key=lambda one: one[1])


def _shown(bench: CircuitBench, truth: Asked, name: str) -> str:
    """A cell in words."""
    cell = bench.cell(truth.name, name)
    if cell.error:
        return f"{truth.name}: {cell.error}"
    silent = f", {cell.silent:g} of {truth.true} true edges score 0" if cell.silent else ""
    return f"{truth.name}: {cell.precision:.3f}{silent}"
