"""Where two nested values differ, leaf by leaf: figures of a card, numbers of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import eq
from typing import Any

Difference = tuple[str, Any, Any]
"""Path of a leaf, and its value on either side; None where a side does not have it."""


def differences(first: Any, second: Any, same: Callable[[Any, Any], bool] = eq) -> tuple[Difference, ...]:
    """The leaves that one side alone has or that are not the same, in the order of their paths."""
    one, other = dict(leaves(first)), dict(leaves(second))
    return tuple(
        (path, one.get(path), other.get(path))
        for path in sorted(one.keys() | other.keys())
        if path not in one or path not in other or not same(one[path], other[path])
    )


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries and lists, with their paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{index}")
    else:
        yield path, value
