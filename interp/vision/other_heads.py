"""What methods on fixed heads are held against: the same method on as many other heads of the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.circuits.controls import matched_random_sets
from interp.circuits.tables import counted
from interp.heads.masking import answer_norms
from interp.hooks.names import parse_head, parse_heads
from interp.hooks.pairs import Pairs
from interp.vision.methods import Tried
from interp.vision.questions import ABSENT, REGULAR, Questions

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

CONTROLLED = (ABSENT, REGULAR)
"""Sets of questions that control sets answer."""
Labels = tuple[str, ...]


def other_sets(
    model: HookedModel, pairs: Pairs, chosen: Mapping[str, Labels], n_draws: int, batch_size: int, seed: int
) -> dict[str, tuple[Labels, ...]]:
    """Different sets of heads for each method: as many in each layer, similar norms, none of its own.

    Args:
        pairs: prompts that norms are measured on.
        chosen: name of a method -> its heads.
        n_draws: random sets a method. Small layers repeat them: half of a layer leaves one set, and that is all there is.

    Raises:
        InterpError: E205, more than half of a layer's heads.
    """
    every = parse_heads("all", model.heads)
    norms, layers = answer_norms(model, pairs, every, batch_size), np.array([head.layer for head in every])

    def drawn(labels: Labels) -> tuple[Labels, ...]:
        target, rng = [every.index(parse_head(label)) for label in labels], np.random.default_rng(seed)
        found = matched_random_sets(target, norms, layers, n_sets=n_draws, rng=rng)
        return tuple(tuple(every[index].label for index in one) for one in dict.fromkeys(found))

    return {name: drawn(labels) for name, labels in chosen.items()}


def repeated(sets: Mapping[str, Sequence[Labels]], n_draws: int) -> tuple[str, ...]:
    """A note on every method whose draws gave fewer sets than were asked for."""
    return tuple(
        f"{name}: {counted(n_draws, 'draw')} of other heads gave {counted(len(found), 'different set')}."
        for name, found in sets.items()
        if len(found) < n_draws
    )


def controlled(
    model: HookedModel,
    tried: Sequence[Tried],
    sets: Mapping[str, Sequence[Labels]],
    asked: Mapping[str, Questions],
    batch_size: int,
) -> dict[str, Float[np.ndarray, "set _"]]:
    """Margins with each set of other heads in a method's place: name of the method / set of questions -> one row a set."""
    return {
        f"{method.name}/{kind}": np.stack([
            method.with_heads(labels).margins(model, asked[kind], [setting], batch_size)[0] for labels in sets[method.name]
        ])
        for method, setting in tried if method.name in sets
        for kind in CONTROLLED
    }  # fmt: skip
