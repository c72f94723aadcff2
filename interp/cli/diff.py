"""`interp diff`: what differs between two runs, head by head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.terminal import Terminal

SHOWN = 10


def diff(
    terminal: Terminal,
    first: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Folder of the run to compare with it.", show_default=False)],
) -> None:
    """Compare two runs on the prompts they share: change of each head's effect, interval, multiple-testing correction."""
    from interp.ablation.diff import COLUMNS, cells, compare
    from interp.ablation.result import AblationResult

    found = compare(AblationResult.load(first), AblationResult.load(second), seed=terminal.seed)
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
