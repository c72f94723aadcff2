"""The group: heads added one by one while refusal falls by more than harmless prompts lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.circuits.evaluations import HeadSet
from interp.circuits.group_result import GroupResult
from interp.hooks.names import HeadId, parse_head
from interp.hooks.pairs import Pairs
from interp.safety.screening import measure_sets
from interp.safety.settings import Settings

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Bargain:
    """What a set of heads is worth to the search, prompt by prompt: fall of the refusal score less `price` times the KL of the
    harmless twin.

    Sahara (Zhou et al. 2024, arXiv 2410.13708) adds the head with the largest shift and does not look at what that costs.
    """

    model: HookedModel
    pairs: Pairs
    settings: Settings

    @property
    def name(self) -> str:
        price, operator = self.settings.price, self.settings.operator
        return f"fall of the refusal score less {price:g} x harmless KL, heads {operator}"

    def __call__(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set prompt"]:
        worth = np.zeros((len(sets), len(self.pairs)))
        some = [index for index, heads in enumerate(sets) if heads]
        if some:
            asked = [tuple(sorted(sets[index])) for index in some]
            found = measure_sets(self.model, self.pairs, asked, self.settings.operator, self.settings)
            worth[some] = (found.base["refusal"] - found.refusal - self.settings.price * found.cost).numpy()
        return worth


def prefixes(found: GroupResult) -> tuple[tuple[HeadId, ...], ...]:
    """The group as it grew: its first head, its first two, and so on."""
    heads = tuple(map(parse_head, found.group))
    return tuple(heads[:size] for size in range(1, len(heads) + 1))


def best(
    sets: Sequence[tuple[HeadId, ...]],
    compliance: Float[Tensor, "set prompt"],
    cost: Float[Tensor, "set prompt"],
    settings: Settings,
) -> tuple[HeadId, ...]:
    """Of some sets the one without which the model complies most, within the bound on harmless KL; none where none is."""
    allowed = cost.mean(1) < settings.max_kl
    mean = compliance.mean(1).where(allowed, -1.0)
    return sets[int(mean.argmax())] if bool(allowed.any()) else ()


def best_of(
    model: HookedModel, pairs: Pairs, sets: Sequence[tuple[HeadId, ...]], settings: Settings
) -> tuple[HeadId, ...]:
    """`best` on these prompts."""
    if not sets:
        return ()
    found = measure_sets(model, pairs, sets, settings.operator, settings)
    return best(sets, found.compliance, found.cost, settings)
