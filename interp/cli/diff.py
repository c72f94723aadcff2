"""`interp diff`: what differs between two runs, head by head; what two circuits share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

SHOWN = 10


def diff(
    terminal: Terminal,
    first: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Folder of the run to compare with it.", show_default=False)],
) -> None:
    """Compare two runs on the prompts they share: change of each head's effect, interval, multiple-testing correction.

    Of two circuits: the edges and nodes that they share, beside chance.
    """
    from interp.circuits.diff import COLUMNS, cells, compare
    from interp.circuits.prompt_results import PromptResult
    from interp.report.kinds import open_result

    loaded: list[PromptResult] = []
    opened = [open_result(folder) for folder in (first, second)]
    if {run.kind for run in opened} == {"circuit"}:
        return share(terminal, *opened)
    for folder, run in zip((first, second), opened, strict=True):
        if not isinstance(run, PromptResult):
            raise InterpError("E205", f"a {run.kind!r} run has no effects prompt by prompt", where=str(folder))
        loaded.append(run)
    found = compare(loaded[0], loaded[1], seed=terminal.seed)
    terminal.say(found.headline())
    terminal.table(COLUMNS, [cells(row) for row in found.top(SHOWN)])
    for note in found.notes:
        terminal.say(f"note: {note}")
    terminal.emit(
        {
            "exit_code": 0,
            "headline": found.headline(),
            "heads": found.to_frame().to_dict("records"),
            "prompts": len(found.prompts),
            "notes": list(found.notes),
        }
    )


def share(terminal: Terminal, first: Any, second: Any) -> None:
    """What two circuits share."""
    from interp.discovery.comparison import COLUMNS, compare

    found = compare(first, second, seed=terminal.seed)
    terminal.say(found.headline())
    for line in found.remarks():
        terminal.say(line)
    terminal.table(COLUMNS, found.table())
    rows = [asdict(one) for one in (found.edges, found.nodes)]
    terminal.emit({"exit_code": 0, "headline": found.headline(), "overlap": rows, "heads": list(found.shared_heads)})
