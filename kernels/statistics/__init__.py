"""What can be known of a head's attention: one file a family, found by name."""

from __future__ import annotations

from interp.kernels.registry import found, made
from interp.kernels.statistics.base import Statistic


def statistics() -> dict[str, type[Statistic]]:
    """Every statistic by its name."""
    return found(__name__, Statistic)


def statistic(given: str | Statistic) -> Statistic:
    """A statistic as it is, or by name with its default parameters. Raises E201 for an unknown name."""
    return made("statistic", __name__, Statistic, given)
