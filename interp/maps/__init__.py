"""Attribution maps: how much each input token counts for the answer. Methods, one file each, are found by name."""

from __future__ import annotations

from interp.kernels.registry import found, made
from interp.maps.method import Method


def methods() -> dict[str, type[Method]]:
    """Every method by its name."""
    return found(__name__, Method)


def method(given: str | Method) -> Method:
    """A method as it is, or the one of this name with its default parameters.

    Raises:
        InterpError: E201, unknown name.
    """
    asked: Method = made("method", __name__, Method, given)
    return asked
