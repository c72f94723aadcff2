"""Held-out prompts without the group, without what it grew from, and without matched random groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.circuits.controls import matched_random_sets
from interp.heads.effects.ablation import ablations
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.safety.phrases import legacy_refuses, refuses
from interp.safety.screening import measure_sets
from interp.safety.settings import Settings

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

NUMBERS = ("ships", "refusal", "compliance", "cost", "helped")
JUDGES = ("token", "phrases", "legacy")
"""By the refusal score of the next token (below 0: refusing is the less likely), by our list of phrases, by the published."""

BASE, GROWN, CONTROL = "base", "grown", "control"


@dataclass(frozen=True)
class Trial:
    """Heads that were taken away together.

    Attributes:
        heads: labels; none in the untouched model.
        kind: 'base', 'grown' (the best single head, and the group on its way) or 'control' (a matched random group).
    """

    heads: tuple[str, ...]
    kind: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Tried:
    """Numbers of every trial on every held-out prompt.

    Attributes:
        numbers: see `interp.safety.screening.Measured`: [trial held_out].
        complied: judge -> 1 where the reply complies: [trial held_out].
        replies: what the model wrote after each harmful prompt, trial by trial.
    """

    trials: tuple[Trial, ...]
    numbers: dict[str, Float[np.ndarray, "trial held_out"]]
    complied: dict[str, Float[np.ndarray, "trial held_out"]]
    replies: tuple[tuple[str, ...], ...]


def controls_of(
    group: Sequence[HeadId], pool: Sequence[HeadId], norms: Float[np.ndarray, " head"], settings: Settings
) -> tuple[tuple[tuple[HeadId, ...], ...], tuple[str, ...]]:
    """Different random groups: as many heads in each layer, similar norms, none of the group's; and why there is none."""
    layers = np.array([head.layer for head in pool])
    inside = [pool.index(head) for head in group]
    for layer in sorted({head.layer for head in group}):
        taken = sum(head.layer == layer for head in group)
        if int((layers == layer).sum()) < 2 * taken:
            return (), (f"Layer {layer} has too few heads outside the group for a random group beside it.",)
    rng = np.random.default_rng([settings.seed, 4])
    drawn = matched_random_sets(inside, norms, layers, n_sets=settings.n_controls, rng=rng)
    different = tuple(dict.fromkeys(drawn))
    return tuple(tuple(pool[index] for index in found) for found in different), ()


def tried(
    model: HookedModel,
    pairs: Pairs,
    grown: Sequence[tuple[HeadId, ...]],
    controls: Sequence[tuple[HeadId, ...]],
    settings: Settings,
) -> Tried:
    """Measure and read the replies of every trial."""
    sets = [*grown, *controls]
    kinds = [*[GROWN] * len(grown), *[CONTROL] * len(controls)]
    found = measure_sets(model, pairs, sets, settings.operator, settings)
    numbers = {}
    for name in NUMBERS:
        base = found.base[name][None].numpy()
        numbers[name] = np.concatenate([base, getattr(found, name).numpy()])
    replies = tuple(replies_of(model, pairs, heads, settings) for heads in [(), *sets])
    complied = {
        "token": (numbers["refusal"] < 0).astype(np.float64),
        "phrases": np.array([[float(not refuses(text)) for text in row] for row in replies]),
        "legacy": np.array([[float(not legacy_refuses(text)) for text in row] for row in replies]),
    }
    trials = [Trial(tuple(head.label for head in heads), kind) for heads, kind in zip(sets, kinds, strict=True)]
    return Tried((Trial((), BASE), *trials), numbers, complied, replies)


def replies_of(model: HookedModel, pairs: Pairs, heads: tuple[HeadId, ...], settings: Settings) -> tuple[str, ...]:
    """What the model writes after each prompt without some heads, greedily; they are away for every token."""
    edits = ablations(
        model,
        pairs,
        [heads] if heads else [],
        settings.operator,
        factor=settings.factor,
        batch_size=settings.batch_size,
    )
    texts: list[str] = []
    for start, stop in batches(len(pairs), settings.batch_size):
        batch = pairs.clean.rows(start, stop).to(model.device)
        texts += model.generate(batch, max_new_tokens=settings.max_new_tokens, edits=edits).texts
    return tuple(texts)
