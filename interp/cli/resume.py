"""`interp resume`: go on with a run."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.ablate import Address, conclude, resume_line
from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError


def resume(
    terminal: Terminal,
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    new_run: Annotated[
        Path | None, typer.Option("--new-run", help="Ask the same again, from the start, in this folder.")
    ] = None,
    executor: Annotated[str | None, typer.Option("--executor", help="Instead of the one it was started with.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Likewise.")] = None,
    address: Address = None,
) -> None:
    """Finish a run that was interrupted, failed in part or was damaged; what is stored and sound is kept."""
    from interp.sweeps.ledger import kind_of

    folder = new_run or run
    if kind_of(run) == "circuit":
        if changed := changes(executor, workers, address):
            what = f"{', '.join(f'--{name}' for name in changed)} for a circuit, which one process finds"
            raise InterpError("E205", what, where=str(run), fix=f"interp resume {run}")
        return resume_circuit(terminal, run, new_run)

    from interp.ablation.resume import resume as go_on

    with resume_line(terminal, folder), terminal.following("edits") as progress:
        result = go_on(run, new_run=new_run, progress=progress, **changes(executor, workers, address))
    conclude(terminal, result, folder)


def resume_circuit(terminal: Terminal, run: Path, new_run: Path | None) -> None:
    """Finish a circuit, with the files that its command asked for beside the run."""
    from interp.cli.circuit import conclude as tell
    from interp.discovery.resume import resume as go_on

    folder = new_run or run
    with resume_line(terminal, folder), terminal.following("prompts scored") as progress:
        result = go_on(run, new_run=new_run, progress=progress)
    report = values_of(result.run.command, "--report")
    tell(terminal, result, folder, values_of(result.run.command, "--export"), report[-1] if report else None)


def values_of(command: str, option: str) -> list[str]:
    """What a command that was stored with a run gives an option."""
    words = shlex.split(command)
    return [value for word, value in pairwise(words) if word == option]


def changes(executor: str | None, workers: int | None, address: str | None) -> dict[str, Any]:
    """What is to be other than when the run was started; inline has one worker and no address."""
    found: dict[str, Any] = {"executor": executor, "workers": workers, "address": address}
    if executor is not None and executor != "ray":
        found["address"] = ""
    if executor == "inline" and workers is None:
        found["workers"] = 1
    kept = {name: value for name, value in found.items() if value is not None}
    return {name: None if value == "" else value for name, value in kept.items()}
