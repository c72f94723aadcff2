"""Where a run goes."""

from __future__ import annotations

import re
from pathlib import Path

from interp.kernels.errors import InterpError

RUNS = Path("runs")


def default_folder(*parts: str) -> Path:
    """`runs/<parts joined>`, with every character that is not safe in a file name replaced."""
    from interp.circuits.files import inside

    name = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(parts)).strip("_-")[:100]
    return inside(RUNS, name or "run")


def refuse_taken(folder: Path, overwrite: bool) -> None:
    """Raise E204 before hours of work rather than after them, where the run could not be written."""
    if folder.is_file():
        raise InterpError("E204", "--out is a file, not a folder", where=str(folder), fix="name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InterpError(
            "E204",
            "the folder is not empty",
            where=str(folder),
            fix="name a new folder, or add --overwrite to replace the run in it",
        )
