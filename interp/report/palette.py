"""The colours of every figure, each with its twin for a dark page. Both sets are safe for colour-blind readers."""

from __future__ import annotations

INK = "#1d2733"
MUTED = "#5f6b78"
GRID = "#e2e6eb"
SURFACE = "#fefefe"
HEAD = "#1f6fb3"
CONTROL = "#8d97a3"

DIVERGING = ("#9c4208", "#d97b3a", "#f3c7a3", "#f2f3f5", "#aecde8", "#4c94cd", "#0b5192")
"""Orange: ablating the head helped. Blue: it hurt, so the head helps. The middle is 0."""

SEQUENTIAL = ("#f3f5f7", "#c5dbee", "#69a9d7", "#1f6eb1", "#0a2e56")

DARK = {
    INK: "#e3e8ee",
    MUTED: "#9aa7b5",
    GRID: "#323b46",
    SURFACE: "#171c23",
    HEAD: "#62b0f0",
    CONTROL: "#7d8896",
    **dict(zip(DIVERGING, ("#ffbe8f", "#d97736", "#74401f", "#2b323b", "#24507a", "#3c8ccc", "#a9daff"), strict=True)),
    **dict(zip(SEQUENTIAL, ("#1e242c", "#204469", "#2f77b4", "#73b5e9", "#e6f4fe"), strict=True)),
}
"""Light colour -> dark colour; the page swaps one for the other wherever it stands in a figure."""


def scale(colours: tuple[str, ...]) -> list[list[float | str]]:
    """A Plotly colour scale with even steps."""
    return [[index / (len(colours) - 1), colour] for index, colour in enumerate(colours)]
