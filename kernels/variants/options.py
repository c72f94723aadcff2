"""A word that must be one of a few."""

from __future__ import annotations

from typing import Any, get_args

from interp.kernels.errors import InterpError, suggest


def check_option(name: str, given: str, options: Any) -> None:
    """Raises E201 where `given` is none of the words of a Literal."""
    words = get_args(options)
    if given not in words:
        raise InterpError("E201", f"{name} has no option {given!r}", fix=suggest(given, words))
