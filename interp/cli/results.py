"""What a verb says of a result: for people, for machines, and by its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli.questions import count_drops
from interp.cli.terminal import Terminal
from interp.kernels.errors import CODES, InterpError

if TYPE_CHECKING:
    from interp.circuits.prompt_results import PromptResult

SHOWN = 10
NOT_FINITE_SHARE = 0.01
"""Above this share of values that are not finite, a run counts as partial."""


def conclude(terminal: Terminal, result: PromptResult, folder: Path, *, overwrite: bool) -> None:
    """Save a result, and say what it says."""
    result.save(folder, overwrite=overwrite)
    show(terminal, result)
    terminal.say(f"run:    {folder}")
    check_finite(result, folder)
    rows = [result.row(index)._asdict() for index in range(len(result.labels))]
    terminal.emit({**as_data(result, folder), "rows": rows})


def show(terminal: Terminal, result: PromptResult) -> None:
    """Headline, top rows, what was left out, and what to know."""
    terminal.say(result.headline())
    for line in result.remarks():
        terminal.say(line)
    terminal.table(result.columns, result.table(SHOWN))
    terminal.say(f"prompts: {len(result.prompts)} kept")
    for code, count in count_drops(result.drops).items():
        terminal.say(f"         {count} dropped, {code}: {CODES[code.removeprefix('INTERP-')]}")
    for warning in result.run.warnings:
        terminal.say(f"note: {warning}")


def check_finite(result: PromptResult, folder: Path) -> None:
    """Raise E501 where so many values are not finite that the run only tells part of the story."""
    bad, total = result.n_not_finite, result.values.size
    if bad > NOT_FINITE_SHARE * total:
        where = next((warning for warning in result.run.warnings if "not finite" in warning), "")
        raise InterpError(
            "E501",
            f"{bad} of {total} values are not finite",
            where=where,
            fix=f"try --dtype float32; what there is was kept in {folder}",
        )


def as_data(result: PromptResult, folder: Path) -> dict[str, Any]:
    """The run for machines."""
    return {
        "exit_code": 0,
        "headline": result.headline(),
        "folder": str(folder),
        "run_id": result.run_id,
        "top": [row.label for row in result.top(SHOWN)],
        "kept": len(result.prompts),
        "dropped": count_drops(result.drops),
        "run": result.run.to_dict(),
    }
