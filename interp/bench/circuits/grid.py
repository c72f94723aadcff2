"""The table as text: truths down, contenders across; and what stands below it."""

from __future__ import annotations

from itertools import groupby

from interp.bench.circuits.cells import Cell
from interp.bench.circuits.summary import PERFECT, briefs
from interp.bench.circuits.table import CircuitBench
from interp.bench.circuits.truths import Asked
from interp.bench.circuits.verdicts import LEARNED
from interp.circuits.tables import counted

BRIEF_COLUMNS = ("kind", "contender", "mean AP", "AP 1.0", "rank", "forwards a prompt", "seconds", "answered")
REFUSED = "refused"


def grid(bench: CircuitBench) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names, and average precision of every contender on every truth."""
    columns = ("model", "ablation", "edges", "true", *(row.name for row in bench.rows))
    return columns, [grid_row(bench, truth) for truth in bench.truths]


def grid_row(bench: CircuitBench, truth: Asked) -> tuple[str, ...]:
    """One truth."""
    cells = (bench.cell(truth.name, row.name) for row in bench.rows)
    return (truth.model, truth.ablation, str(truth.edges), str(truth.true), *map(shown, cells))


def shown(cell: Cell) -> str:
    """Average precision to two places, '1' where no false edge is before a true one, never rounded up to that."""
    if cell.precision is None:
        return REFUSED
    return "1" if cell.precision >= PERFECT else f"{min(cell.precision, 0.99):.2f}"


def notes(bench: CircuitBench) -> list[str]:
    """Why contenders refused, which metrics are not the usual one, and which truths are about more than the metric."""
    errors = sorted((cell.contender, cell.error, cell.truth) for cell in bench.cells if cell.error)
    refused = [
        f"{contender} refused {', '.join(truth for _, _, truth in group)}: {error}."
        for (contender, error), group in groupby(errors, key=lambda one: one[:2])
    ]
    return (
        refused
        + [
            f"{truth.name}: the metric is {truth.metric}, because its prompts have no answers."
            for truth in bench.truths
            if truth.metric != "logit_diff"
        ]
        + [
            f"{truth.name}: its true edges move the whole distribution at every position that is asked, by more than 3 % of the"
            " largest divergence; scores are about the last position's answer against one other."
            for truth in bench.of_kind(LEARNED)
        ]
    )


def brief_table(bench: CircuitBench) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names, and one row for each contender and kind of model, the best first."""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return BRIEF_COLUMNS, [
        (
            one.kind,
            one.contender,
            text(one.precision, ".3f"),
            f"{one.perfect} of {one.asked}",
            text(one.rank, ".1f"),
            text(one.forwards, ".4g"),
            text(one.seconds, ".3g"),
            f"{one.answered} of {one.asked}",
        )
        for one in briefs(bench)
    ]


def spoken_run(bench: CircuitBench) -> str:
    """Where and how long, in a line."""
    run, machine = bench.run, bench.run["machine"]
    return (
        f"{counted(run['settings']['prompts'], 'prompt')} a model, {counted(machine['threads'], 'thread')} of {machine['processor']}, torch"
        f" {run['versions']['torch']}, {run['seconds']:.0f} s, {run['started']}"
    )
