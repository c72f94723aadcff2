"""The first three criteria over all prompts: one forward a batch, and a second where sinks stand beyond the first token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.sinks.means import against_others, part_means
from interp.sinks.places import Places
from interp.sinks.settings import Settings
from interp.sinks.spots import Spot, sink_keys, spots_of
from interp.sinks.watch import UNIT, Layer, observe

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

BY_ROLE = ("received", "uniform", "written", "values", "norm", "peak", "outlier")
BY_DOMAIN = ("mass", "on_sinks", "output", "gate")
BY_PLACE = ("received", "over", "written", "norm")
GUARDED = ("received", "uniform", "over")
"""Known only of keys that enough queries may see."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What forwards told.

    Attributes:
        heads: labels, in model order.
        by_role: name of `BY_ROLE` -> means over the tokens of a role.
        by_domain: name of `BY_DOMAIN` -> means over the queries of a domain; the last two are resting and working ones.
        by_place: name of `BY_PLACE` -> means over prompts, position by position.
        resting: queries that rest on a sink.
        sinks: keys that are sinks.
        spots: keys that receive much.
        dimensions: (layer, dimension) -> tokens whose massive entry stands there.
        usual: for each layer the dimension that is the largest of most tokens, and of what share of them.
        has_logit: layers with a learned sink logit.
        has_free_rows: whether rows may have any mass, with no logit that takes the rest.
        is_causal: whether later keys are hidden in every layer.
    """

    heads: tuple[str, ...]
    by_role: dict[str, Float[np.ndarray, "head prompt role"]]
    by_domain: dict[str, Float[np.ndarray, "head prompt domain"]]
    by_place: dict[str, Float[np.ndarray, "head pos"]]
    resting: Bool[Tensor, "prompt head pos"]
    sinks: Bool[Tensor, "prompt pos"]
    spots: tuple[Spot, ...]
    dimensions: dict[tuple[int, int], int]
    usual: dict[int, tuple[int, float]]
    has_logit: tuple[int, ...]
    has_free_rows: bool
    is_causal: bool


@torch.no_grad()
def survey(
    model: HookedModel,
    batch: Batch,
    places: Places,
    tokens: Sequence[Sequence[str]],
    settings: Settings,
    layers: tuple[int, ...],
) -> Survey:
    """Watch all prompts, batch by batch.

    Raises:
        InterpError: as `interp.sinks.watch.observe`.
    """
    gathered = _Gathered(layers)
    for start, stop in batches(batch.size, settings.batch_size):
        part, here = batch.rows(start, stop), places.rows(start, stop)
        first = here.keys[0]
        seen = observe(model, part, settings, first, layers)
        rows = tokens[start:stop]
        spots = [
            spot for layer in layers for spot in spots_of(layer, seen[layer], here, rows, settings, start)
        ]  # fmt: skip
        sinks = sink_keys(spots, here, settings, start)
        if bool((sinks != first).any()):
            seen = observe(model, part, settings, sinks, layers)
        gathered.add([seen[layer] for layer in layers], here, settings, spots, sinks)
    heads = tuple(f"L{layer}H{head}" for layer in layers for head in range(model.heads[""][layer]))
    return gathered.survey(heads)


class _Gathered:
    """Numbers of all batches."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.by_role: dict[str, list[Tensor]] = {name: [] for name in BY_ROLE}
        self.by_domain: dict[str, list[Tensor]] = {name: [] for name in BY_DOMAIN}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.resting: list[Tensor] = []
        self.sinks: list[Tensor] = []
        self.spots: list[Spot] = []
        self.dimensions: Counter[tuple[int, int]] = Counter()
        self.largest: dict[int, Counter[int]] = {layer: Counter() for layer in layers}
        self.logits: dict[int, None] = {}
        self.has_free_rows, self.is_causal = False, True

    def add(
        self, seen: Sequence[Layer], places: Places, settings: Settings, spots: Sequence[Spot], sinks: Tensor
    ) -> None:
        self.spots.extend(spots)
        self.sinks.append(sinks)
        free = places.real & ~sinks
        resting = [_rests(one, settings) & free[:, None] for one in seen]
        numbers = [_numbers(one, places, settings) for one in seen]
        guarded = [(one.count.cpu() >= settings.min_queries) & places.real for one in seen]
        for name in BY_ROLE:
            keys = [places.keys & kept if name in GUARDED else places.keys for kept in guarded]
            means = [part_means(layer[name], where) for layer, where in zip(numbers, keys, strict=True)]
            self.by_role[name].append(torch.cat(means, 1))
        for name in BY_DOMAIN:
            means = [
                _by_domain(getattr(one, name).cpu(), rests, free, places)
                for one, rests in zip(seen, resting, strict=True)
            ]
            self.by_domain[name].append(torch.cat(means, 1))
        for name in BY_PLACE:
            kept = guarded if name in GUARDED else [places.real] * len(seen)
            known = [
                layer[name].double().masked_fill(~where[:, None], torch.nan)
                for layer, where in zip(numbers, kept, strict=True)
            ]
            self._place(name, torch.cat(known, 1))
        self.resting.append(torch.cat(resting, 1))
        for number, one in zip(self.layers, seen, strict=True):
            self._count(number, one, places.real)

    def _place(self, name: str, values: Float[Tensor, "batch head pos"]) -> None:
        known = values.isfinite()
        total, count = values.where(known, 0.0).sum(0), known.sum(0)
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.counts[name] = self.counts[name] + count if name in self.counts else count

    def _count(self, number: int, one: Layer, real: Bool[Tensor, "batch pos"]) -> None:
        """Dimensions that hold massive entries, and those that hold the largest entry of any token."""
        dimension, massive = one.dimension.cpu(), one.is_massive.cpu() & real
        for index, times in Counter(dimension[massive].tolist()).items():
            self.dimensions[number, index] += times
        self.largest[number].update(dimension[real].tolist())
        if one.has_logit:
            self.logits[number] = None
        self.has_free_rows |= is_free(one)
        self.is_causal &= one.is_causal

    def survey(self, heads: tuple[str, ...]) -> Survey:
        def axes(parts: list[Tensor]) -> np.ndarray:
            return torch.cat(parts).transpose(0, 1).contiguous().numpy()

        place = {
            name: torch.where(self.counts[name] > 0, total / self.counts[name].clamp(min=1), torch.nan).numpy()
            for name, total in self.sums.items()
        }
        usual = {}
        for layer, counter in self.largest.items():
            dimension, times = counter.most_common(1)[0]
            usual[layer] = (dimension, times / counter.total())
        return Survey(
            heads,
            {name: axes(parts) for name, parts in self.by_role.items()},
            {name: axes(parts) for name, parts in self.by_domain.items()},
            place,
            torch.cat(self.resting),
            torch.cat(self.sinks),
            tuple(self.spots),
            dict(self.dimensions.most_common()),
            usual,
            tuple(self.logits),
            self.has_free_rows,
            self.is_causal,
        )


def _by_domain(
    values: Float[Tensor, "batch head pos"],
    rests: Bool[Tensor, "batch head pos"],
    free: Bool[Tensor, "batch pos"],
    places: Places,
) -> Float[Tensor, "batch head domain"]:
    """Means over the queries of each domain; resting and working ones last."""
    own = part_means(values, torch.stack([rests, ~rests & free[:, None]]))
    return torch.cat([part_means(values, places.queries), own], -1)


def _numbers(one: Layer, places: Places, settings: Settings) -> dict[str, Float[Tensor, "batch head pos"]]:
    """What is known of keys; numbers of the whole layer stand at each of its heads."""
    received = one.received.cpu().double()
    outlier = (one.is_long | one.is_massive).cpu().double()
    return {
        "received": received,
        "over": (received > settings.eps).double(),
        "uniform": one.uniform.cpu()[:, None].expand_as(received),
        "values": against_others(one.values.cpu(), places.content),
        "written": against_others(one.written.cpu(), places.content),
        "norm": one.norm.cpu()[:, None].expand_as(received),
        "peak": one.peak.cpu()[:, None].expand_as(received),
        "outlier": outlier[:, None].expand_as(received),
    }


def _rests(one: Layer, settings: Settings) -> Bool[Tensor, "batch head pos"]:
    """Queries with most of their attention on sinks, a sink logit's share counted as one; where rows may have any mass,
    also those that have less than `rest` of what the head's rows have on average."""
    mass, on = one.mass.cpu(), one.on_sinks.cpu()
    if one.has_logit:
        return on + (1 - mass) > settings.rest
    off = (
        mass < settings.rest * mass.mean(-1, keepdim=True) if is_free(one) else torch.zeros_like(mass, dtype=torch.bool)
    )
    return (on > settings.rest * mass) | off


def is_free(one: Layer) -> bool:
    """Whether rows have another mass than 1 and no sink logit takes the rest; rows of padding have none."""
    return not one.has_logit and bool(((one.mass - 1).abs() > UNIT).logical_and(one.mass > 0).any())
