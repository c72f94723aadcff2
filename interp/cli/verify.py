"""`interp verify`: is a run folder whole?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError, InterpErrors

if TYPE_CHECKING:
    from interp.sweeps.verify import Check


def verify(
    terminal: Terminal, run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)]
) -> None:
    """Check every file and every shard of a run: exit code 0 whole, 5 unfinished, 7 damaged."""
    from interp.sweeps.verify import verify as check

    found = check(run)
    if found.problems:
        raise damaged(found)
    shards = f"{found.shards - len(found.missing)} of {found.shards} shards" if found.shards else "no shards"
    if not found.finished:
        there = (
            f"{shards} have values, {len(found.failed)} failed" if found.shards else f"{found.kept} answers are kept"
        )
        raise InterpError(
            "E502",
            f"unfinished: {there}; what there is is sound",
            where=str(run),
            fix=f"interp resume {run}",
        )
    terminal.say(f"{run}: whole; every file has its digest, {shards} fit the table")
    terminal.emit({"exit_code": 0, "finished": True, "shards": found.shards, "problems": []})


def damaged(found: Check) -> InterpError:
    """All files that are not what was written."""
    from interp.circuits.runfolder import PLAN

    is_lost = any(problem.file == PLAN for problem in found.problems)
    can_resume = found.shards or not (found.finished or is_lost)
    fix = f"interp resume {found.path}" if can_resume else "run it again, with --overwrite"
    errors = [
        InterpError("E701", f"{problem.file} {problem.what}", where=str(found.path), fix=fix)
        for problem in found.problems
    ]
    return errors[0] if len(errors) == 1 else InterpErrors(errors)
