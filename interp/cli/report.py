"""`interp report`: run folders as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs, of any kind.", show_default=False)]


def report(
    terminal: Terminal,
    runs: Runs,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: report.html in the run.")
    ] = None,
) -> None:
    """Write one HTML file that needs no network."""
    from interp.circuits.runfolder import REPORT
    from interp.report.page import report as write

    if len(runs) > 1 and out is None:
        raise InterpError("E205", f"{len(runs)} runs and no --out", fix="name the file: --out report.html")
    path = write(runs, out or runs[0] / REPORT)
    size = Path(path).stat().st_size
    terminal.say(f"report: {path} ({size / 1e6:.1f} MB)")
    terminal.emit({"exit_code": 0, "report": str(path), "bytes": size})
