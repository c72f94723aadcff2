"""Attention operators: one file each, found by name."""

from __future__ import annotations

from interp.kernels.registry import found, made
from interp.kernels.variants.base import Variant


def variants() -> dict[str, type[Variant]]:
    """Every operator by its name."""
    return found(__name__, Variant)


def variant(given: str | Variant) -> Variant:
    """An operator as it is, or by name with its default parameters. Raises E201 for an unknown name."""
    return made("variant", __name__, Variant, given)
