"""Where the items of one column stand across: few crossings, lines as straight as they can be, nothing overlapping.

Layers are given; within them items are ordered by barycentre sweeps (Sugiyama, Tagawa and Toda, 1981). An item is a node,
or the place where a line passes a row. The same input gives the same output.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Places = Float[np.ndarray, " item"]

STARTS, SWEEPS, SETTLING, STILL = 8, 12, 120, 0.1
"""Orders to start from, rounds of ordering, and of straightening until nothing moves by more than this any more."""

STIFF = 6.0
"""How much more a line keeps upright than it draws to its ends."""


@dataclass(frozen=True)
class Bond:
    """Two items in rows next to each other that a line joins.

    Attributes:
        low, high: items.
        shift: how far to the right of the middle of `high` the line enters it.
    """

    low: int
    high: int
    shift: float = 0.0


@dataclass(frozen=True)
class Column:
    """What stands in a column.

    Attributes:
        rows: items of each row, from the bottom, in the order to start from.
        widths: of the items, with the room they need.
        bonds: between items.
        chains: items that one line passes.
    """

    rows: tuple[tuple[int, ...], ...]
    widths: tuple[float, ...]
    bonds: tuple[Bond, ...]
    chains: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Pull:
    """What draws the items of a row to the side.

    Attributes:
        row: the items.
        of: for each pull, which of them is drawn.
        other: by which item.
        shift: how far to the right of its middle.
    """

    row: Int[np.ndarray, " own"]
    of: Int[np.ndarray, " pull"]
    other: Int[np.ndarray, " pull"]
    shift: Float[np.ndarray, " pull"]

    @classmethod
    def on(cls, row: Sequence[int], pulls: Sequence[tuple[int, int, float]]) -> Pull:
        """Of all pulls (item, other item, shift) those on this row."""
        at = {item: number for number, item in enumerate(row)}
        found = [(at[item], other, shift) for item, other, shift in pulls if item in at]
        of, other, shift = (np.array([one[part] for one in found]) for part in range(3))
        return cls(np.array(row, int), of.astype(int), other.astype(int), shift.astype(float))

    def summed(self, x: Places) -> tuple[Float[np.ndarray, " own"], Float[np.ndarray, " own"]]:
        """Sum of where each item is drawn to, and by how many."""
        total = np.bincount(self.of, x[self.other] + self.shift, len(self.row)).astype(float)
        return total, np.bincount(self.of, minlength=len(self.row)).astype(float)

    def mean(self, x: Places) -> Float[np.ndarray, " own"]:
        """Where each item is drawn to; where it is, where nothing draws it."""
        total, count = self.summed(x)
        return np.where(count > 0, total / np.maximum(count, 1), x[self.row])


def across(column: Column) -> Places:
    """Middle of every item; the leftmost edge is at 0."""
    up = [(bond.high, bond.low, -bond.shift) for bond in column.bonds]
    down = [(bond.low, bond.high, bond.shift) for bond in column.bonds]
    below, above = ([Pull.on(row, pulls) for row in column.rows if row] for pulls in (up, down))
    widths = np.array(column.widths, float)
    fewest = (np.inf, np.zeros(0))
    for seed in range(STARTS):
        start = _start(below, widths, seed)
        for x in _sweeps(start, below, above[::-1], widths):
            if (count := crossings(column, x)) < fewest[0]:
                fewest = count, x.copy()
    return _settled(column, widths, [sorted(row, key=fewest[1].__getitem__) for row in column.rows if row], up + down)


def _start(rows: list[Pull], widths: Places, seed: int) -> Places:
    """Every row side by side: in the order given first, then in others."""
    x = np.zeros(len(widths))
    for pull in rows:
        row = np.random.default_rng(seed).permutation(pull.row) if seed else pull.row
        x[row] = spread(np.zeros(len(row)), np.ones(len(row)), widths[row])
    return x


def _sweeps(x: Places, below: list[Pull], above: list[Pull], widths: Places) -> Iterator[Places]:
    """The start, and what each sweep up or down makes of it."""
    yield x
    for sweep in range(SWEEPS):
        for pull in below if sweep % 2 == 0 else above:
            wanted = pull.mean(x)
            order = np.lexsort((x[pull.row], wanted))
            row = pull.row[order]
            x[row] = spread(wanted[order], np.ones(len(row)), widths[row])
        yield x


def spread(
    wanted: Float[np.ndarray, " item"], weights: Float[np.ndarray, " item"], widths: Float[np.ndarray, " item"]
) -> Float[np.ndarray, " item"]:
    """The places in this order, without overlap, whose weighted squared distance from the wanted ones is least.

    With the widths taken out this is isotonic regression, solved by pooling adjacent violators.
    """
    half = widths / 2
    offset = np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:])]) if len(half) else half
    pools: list[tuple[float, float, int]] = []  # mean, weight, size
    for value, weight in zip(wanted - offset, weights, strict=True):
        mean, mass, size = float(value), float(weight), 1
        while pools and pools[-1][0] > mean:
            before, more, count = pools.pop()
            mean, mass, size = (before * more + mean * mass) / (more + mass), more + mass, size + count
        pools.append((mean, mass, size))
    return offset + np.repeat([mean for mean, _, _ in pools], [size for _, _, size in pools])


def crossings(column: Column, x: Places) -> int:
    """How many pairs of bonds cross."""
    row_of = {item: number for number, row in enumerate(column.rows) for item in row}
    ends: list[list[tuple[float, float]]] = [[] for _ in column.rows]
    for bond in column.bonds:
        ends[row_of[bond.low]].append((float(x[bond.low]), float(x[bond.high]) + bond.shift))
    count = 0
    for pairs in ends:
        seen: list[float] = []
        for _, high in sorted(pairs):
            count += len(seen) - bisect_right(seen, high)
            insort(seen, high)
    return count


def _settled(column: Column, widths: Places, rows: list[list[int]], pulls: list[tuple[int, int, float]]) -> Places:
    """Places for an order that is fixed now; a line is drawn to its own mean, so that it bends at its ends alone."""
    x = np.zeros(len(widths))
    chain = np.full(len(widths), -1)
    for number, items in enumerate(column.chains):
        chain[list(items)] = number
    outer = [pull for pull in pulls if chain[pull[0]] < 0 or chain[pull[0]] != chain[pull[1]]]
    found = [Pull.on(row, outer) for row in rows]
    for step in range(SETTLING):
        before = x.copy()
        mean = np.bincount(chain + 1, x) / np.maximum(np.bincount(chain + 1), 1)
        for pull in found if step % 2 == 0 else found[::-1]:
            total, count = pull.summed(x)
            stiff = np.where(chain[pull.row] >= 0, STIFF, 0.0)
            weight = stiff + count
            drawn = (stiff * mean[chain[pull.row] + 1] + total) / np.maximum(weight, 1)
            wanted = np.where(weight > 0, drawn, x[pull.row])
            x[pull.row] = spread(wanted, np.maximum(weight, 1), widths[pull.row])
        if step and np.abs(x - before).max(initial=0) < STILL:
            break
    return x - (x - widths / 2).min() if len(x) else x
