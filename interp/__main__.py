"""`python -m interp` is the command `interp`."""

from __future__ import annotations

from interp.cli.main import main

main()
