"""Lists as they are typed: `a,b` and `0,1,5`."""

from __future__ import annotations

from interp.kernels.errors import InterpError


def words(text: str) -> tuple[str, ...]:
    """`a,b` taken apart."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    """`0,1,5` (E205)."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InterpError("E205", f"{option} {text} is no list of numbers", fix=f"write {option} 0,1,5")
    return tuple(map(int, parts))
