"""Where a run goes."""

from __future__ import annotations

import re
from pathlib import Path

RUNS = Path("runs")


def default_folder(*parts: str) -> Path:
    """`runs/<parts joined>`, with every character that is not safe in a file name replaced."""
    from interp.circuits.files import inside

    name = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(parts)).strip("_-")[:100]
    return inside(RUNS, name or "run")
