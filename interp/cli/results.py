"""What a verb says of a result: for people, for machines, and by its exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli.questions import count_drops
from interp.cli.terminal import Terminal
from interp.kernels.errors import CODES, InterpError

if TYPE_CHECKING:
    from interp.circuits.prompt_results import PromptResult
    from interp.circuits.results import Result

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
    tell(terminal, result, result.table(SHOWN), f"{len(result.prompts)} kept")


def tell(terminal: Terminal, result: Result, rows: Sequence[Sequence[str]], prompts: str = "") -> None:
    """The same for a result of any kind.

    Args:
        prompts: how many there are.
    """
    terminal.say(result.headline())
    for line in result.remarks():
        terminal.say(line)
    terminal.table(result.columns, rows)
    if prompts:
        terminal.say(f"prompts: {prompts}")
    for code, count in count_drops(getattr(result, "drops", ())).items():
        terminal.say(f"         {count} dropped, {code}: {CODES[code.removeprefix('INTERP-')]}")
    for warning in result.run.warnings:
        terminal.say(f"note: {warning}")


def finish(
    terminal: Terminal,
    result: Result,
    folder: Path,
    rows: Sequence[Sequence[str]],
    data: Mapping[str, Any],
    *,
    prompts: str = "",
    overwrite: bool,
) -> None:
    """Save a result without effects prompt by prompt, and say what it says.

    Args:
        data: what machines are told beside what all runs say.
    """
    result.save(folder, overwrite=overwrite)
    tell(terminal, result, rows, prompts)
    terminal.say(f"run:    {folder}")
    terminal.emit({**run_data(result, folder), **data})


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
    top = [row.label for row in result.top(SHOWN)]
    return {**run_data(result, folder), "top": top, "kept": len(result.prompts)}


def run_data(result: Result, folder: Path) -> dict[str, Any]:
    """What all runs say to machines."""
    return {
        "exit_code": 0,
        "headline": result.headline(),
        "folder": str(folder),
        "run_id": result.run_id,
        "dropped": count_drops(getattr(result, "drops", ())),
        "run": result.run.to_dict(),
    }
