"""Queries and keys of heads over many prompts, with the attention of some pairs of them: one forward a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.statistics import Measuring
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.targeted import TargetedMass

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

BARE = ("attn.hook_q", "attn.hook_k")
TURNED = ("attn.hook_rot_q", "attn.hook_rot_k")

Sides = tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"], Float[np.ndarray, " _"]]
"""Queries and keys of tokens, and attention of pairs."""


@dataclass(frozen=True, eq=False)
class Spots:
    """Tokens that are shown, and pairs of them whose attention is read.

    Attributes:
        prompts, positions: of each token, counted from 0 in its prompt.
        targets: for each token some shown ones of its prompt, none after it, as numbers of tokens; -1 for no more.
    """

    prompts: Int[np.ndarray, " token"]
    positions: Int[np.ndarray, " token"]
    targets: Int[np.ndarray, "token target"]

    @classmethod
    def draw(cls, lengths: Sequence[int], per_prompt: int, n_targets: int, seed: int) -> Spots:
        """At most so many tokens of each prompt, evenly drawn, and targets of each."""
        prompts, positions, targets = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        for prompt, length in enumerate(lengths):
            rng = np.random.default_rng([seed, 3, prompt])
            shown = np.sort(rng.choice(length, min(length, per_prompt), replace=False))
            begin = sum(len(one) for one in positions)
            prompts.append(np.full(len(shown), prompt))
            positions.append(shown)
            for place in range(len(shown)):
                seen = rng.permutation(place + 1)[:n_targets] + begin
                targets.append(np.pad(seen, (0, n_targets - len(seen)), constant_values=-1))
        return cls(np.concatenate(prompts), np.concatenate(positions), np.stack(targets))

    @property
    def pairs(self) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
        """Numbers of the querying token and of its key, pair by pair."""
        token, slot = np.nonzero(self.targets >= 0)
        return token, self.targets[token, slot]


@dataclass(frozen=True, eq=False)
class HeadVectors:
    """Of one head: a query and a key for each shown token, and attention for each pair of `Spots`.

    Attributes:
        turned: whether queries and keys are those after rotary positions; None where the model has none.
    """

    queries: Float[np.ndarray, "token d_head"]
    keys: Float[np.ndarray, "token d_head"]
    attention: Float[np.ndarray, " pair"]
    turned: bool | None


def head_vectors(
    model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], spots: Spots, *, rotated: bool, batch_size: int
) -> dict[HeadId, HeadVectors]:
    """Vectors of these heads, from one forward a batch.

    Args:
        rotated: on models with rotary positions, the vectors whose products are the scores, and not those before.

    Raises:
        InterpError: E403 where a layer's attention can't be read.
    """
    layers = sorted({head.layer for head in heads})
    turned = {layer: point_name(TURNED[0], layer) in model.adapter.available for layer in layers}
    parts: dict[HeadId, list[Sides]] = {head: [] for head in heads}
    for start, stop in batches(len(pairs), batch_size):
        batch = pairs.clean.rows(start, stop).to(model.device)
        found = _run(model, batch, layers, spots, start, {one for one in layers if turned[one] and rotated})
        for head in heads:
            parts[head].append(_of_head(found[head.layer], head, batch, spots, start, model.heads[""][head.layer]))
    return {
        head: HeadVectors(*_joined(found), rotated if turned[head.layer] else None) for head, found in parts.items()
    }


def _joined(parts: Sequence[Sides]) -> Sides:
    queries, keys, attention = zip(*parts, strict=True)
    return np.concatenate(queries), np.concatenate(keys), np.concatenate(attention)


class _Kept:
    """Hook that keeps what it sees."""

    value: Tensor

    def __call__(self, value: Tensor, context: HookContext) -> None:
        self.value = value.detach()


@dataclass(frozen=True, eq=False)
class _Seen:
    """Of one layer and batch."""

    queries: Float[Tensor, "batch pos head d_head"]
    keys: Float[Tensor, "batch pos kv_head d_head"]
    found: Mapping[str, Tensor]


def _run(
    model: HookedModel, batch: Batch, layers: Sequence[int], spots: Spots, start: int, turned: set[int]
) -> dict[int, _Seen]:
    asked = _statistics(batch, spots, start)
    measuring = {layer: Measuring(model.heads[""][layer], asked, "auto") for layer in layers}
    kept = {layer: (_Kept(), _Kept()) for layer in layers}
    hooks: dict[str, list[object]] = {}
    for layer in layers:
        for kind, one in zip(TURNED if layer in turned else BARE, kept[layer], strict=True):
            model.check_point(point_name(kind, layer))
            hooks[point_name(kind, layer)] = [one]
        hooks[point_name(OPERATOR, layer)] = [measuring[layer]]
    model.run_with_hooks(batch, hooks)  # type: ignore[arg-type]  # a hook that keeps returns nothing
    return {
        layer: _Seen(kept[layer][0].value, kept[layer][1].value, measuring[layer].found.statistics) for layer in layers
    }


def _statistics(batch: Batch, spots: Spots, start: int) -> dict[str, str | Statistic]:
    """One target a query at a time: what each of them gets."""
    rows = _rows(spots, start, start + batch.size)
    first = batch.first.cpu().numpy()
    asked: dict[str, str | Statistic] = {}
    for slot in range(spots.targets.shape[1]):
        targets = torch.full(batch.input_ids.shape, -1, device=batch.input_ids.device)
        for token in rows[spots.targets[rows, slot] >= 0]:
            row = spots.prompts[token] - start
            key = spots.positions[spots.targets[token, slot]]
            targets[row, spots.positions[token] + first[row]] = int(key + first[row])
        asked[str(slot)] = TargetedMass(targets)
    return asked


def _of_head(seen: _Seen, head: HeadId, batch: Batch, spots: Spots, start: int, n_heads: int) -> Sides:
    """Queries, keys and attention of the tokens of a batch."""
    rows = _rows(spots, start, start + batch.size)
    prompt = torch.from_numpy(spots.prompts[rows] - start).to(batch.input_ids.device)
    at = torch.from_numpy(spots.positions[rows]).to(prompt.device) + batch.first[prompt]
    kv_head = head.head // (n_heads // seen.keys.shape[2])
    queries, keys = seen.queries[prompt, at, head.head], seen.keys[prompt, at, kv_head]
    mass = torch.stack([seen.found[str(slot)][prompt, head.head, at] for slot in range(spots.targets.shape[1])], -1)
    attention = mass.cpu().double().numpy()[spots.targets[rows] >= 0]
    return queries.double().cpu().numpy(), keys.double().cpu().numpy(), attention


def _rows(spots: Spots, start: int, stop: int) -> Int[np.ndarray, " token"]:
    """Numbers of the tokens of some prompts."""
    rows: np.ndarray = np.flatnonzero((spots.prompts >= start) & (spots.prompts < stop))
    return rows
