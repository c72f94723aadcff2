"""Matched random configurations: the same classes, as many heads of each, given to other heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial, prod

import numpy as np
from jaxtyping import Int

from interp.swapping.search import State

TRIES = 50
"""Draws for each control that is wanted; layers of few heads repeat themselves."""


@dataclass(frozen=True)
class Drawn:
    """Random configurations, all different.

    Attributes:
        states: those with as many heads of each class in each layer first.
        n_within: how many of these there are; the others have as many heads of each class in the model.
        notes: why some are missing or not matched layer by layer.
    """

    states: tuple[State, ...]
    n_within: int
    notes: tuple[str, ...]


def matched_states(found: State, layers: Sequence[int], n: int, seed: int) -> Drawn:
    """Random configurations to compare a found one with.

    Args:
        layers: a number for the layer of each head.
        n: how many; where the layers don't have so many, the rest is drawn over all layers.
    """
    rng, layer_of = np.random.default_rng([seed, 2]), np.asarray(layers)
    within = _draw(found, layer_of, n, rng, ())
    across = _draw(found, np.zeros_like(layer_of), n - len(within), rng, within)
    notes = []
    if across:
        notes.append(
            f"Layers allow {len(within)} other choices of as many heads each; {len(across)} of the random ones are drawn "
            "over all layers."
        )
    if len(within) + len(across) < n:
        notes.append(f"There are no more than {len(within) + len(across)} other choices of as many heads.")
    return Drawn((*within, *across), len(within), tuple(notes))


def _draw(
    found: State, groups: Int[np.ndarray, " head"], n: int, rng: np.random.Generator, known: Sequence[State]
) -> tuple[State, ...]:
    """Different shuffles of classes among the heads of each group, none of them known."""
    left = _arrangements(found, groups) - 1
    seen = {found, *known}
    drawn: list[State] = []
    for _ in range(TRIES * n if left else 0):
        if len(drawn) == n:
            break
        state = _shuffled(found, groups, rng)
        if state not in seen:
            seen.add(state)
            drawn.append(state)
    return tuple(drawn)


def _shuffled(found: State, groups: Int[np.ndarray, " head"], rng: np.random.Generator) -> State:
    new = np.array(found)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        new[members] = new[rng.permutation(members)]
    return tuple(new.tolist())


def _arrangements(found: State, groups: Int[np.ndarray, " head"]) -> int:
    """In how many ways classes can be given to the heads of each group."""
    ways = 1
    for group in np.unique(groups):
        counts = np.unique(np.array(found)[groups == group], return_counts=True)[1]
        ways *= factorial(int(counts.sum())) // prod(factorial(int(count)) for count in counts)
    return ways
