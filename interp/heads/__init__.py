"""What each head does: scorers, one file each, found by name."""

from __future__ import annotations

from typing import Any

from interp.heads.scorer import Scorer
from interp.kernels.errors import InterpError
from interp.kernels.registry import found, made


def scorers() -> dict[str, type[Scorer]]:
    """Every scorer by its name."""
    return found(__name__, Scorer)


def scorer(given: str | Scorer, **options: Any) -> Scorer:
    """A scorer as it is, or by name with these parameters.

    Raises:
        InterpError: E201 unknown name or parameter; E205 parameters for a scorer that has its own already, or a value
            that makes no sense.
    """
    if not options:
        asked: Scorer = made("scorer", __name__, Scorer, given)
        return asked
    if isinstance(given, Scorer):
        raise InterpError("E205", f"{given.name} is a record, and {', '.join(options)} beside it", fix="put it there")
    kind = type(made("scorer", __name__, Scorer, given))
    unknown = sorted(set(options) - set(kind.__dataclass_fields__))
    if unknown:
        known = ", ".join(kind.__dataclass_fields__) or "(none)"
        raise InterpError("E201", f"scorer {given!r} has no parameter {unknown[0]!r}", fix=f"known: {known}")
    return kind(**options)
