"""Keys that receive much attention, one record for each head, prompt and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from interp.sinks.means import against_others
from interp.sinks.places import OTHER, Places
from interp.sinks.settings import Settings
from interp.sinks.watch import Layer


@dataclass(frozen=True)
class Spot:
    """A sink by attention, beside what the other criteria say of it.

    Attributes:
        prompt: number of the prompt.
        position, token, role: where; of several roles the first.
        received, uniform, queries: mean attention of the queries that may see it, what even attention would give, and
            how many such queries there are.
        written: length of what its value writes over that of the other keys.
        norm, is_outlier: length of the stream there over the prompt's median, and whether it or an entry is an outlier.
    """

    head: str
    prompt: int
    position: int
    token: str
    role: str
    received: float
    uniform: float
    queries: int
    written: float
    norm: float
    is_outlier: bool


def spots_of(
    layer: int,
    seen: Layer,
    places: Places,
    tokens: Sequence[Sequence[str]],
    settings: Settings,
    first_prompt: int,
) -> list[Spot]:
    """Keys of one layer that receive more than `eps` from at least `min_queries` queries."""
    guarded = (seen.count >= settings.min_queries).cpu() & places.real
    written = against_others(seen.written.cpu(), places.content)
    found = (seen.received.cpu() > settings.eps) & guarded[:, None]
    outlying = (seen.is_long | seen.is_massive).cpu()
    rows = []
    for row, head, at in found.nonzero().tolist():
        role = next((name for name, keys in zip(places.roles, places.keys, strict=True) if bool(keys[row, at])), OTHER)
        rows.append(
            Spot(
                head=f"L{layer}H{head}",
                prompt=first_prompt + row,
                position=at,
                token=tokens[row][at],
                role=role,
                received=float(seen.received[row, head, at]),
                uniform=float(seen.uniform[row, at]),
                queries=int(seen.count[row, at]),
                written=float(written[row, head, at]),
                norm=float(seen.norm[row, at]),
                is_outlier=bool(outlying[row, at]),
            )
        )
    return rows


def sink_keys(
    spots: Sequence[Spot], places: Places, settings: Settings, first_prompt: int
) -> Bool[Tensor, "batch pos"]:
    """The sinks of each prompt: its first token, and every key that receives much while its value is drained or its
    stream an outlier. A key that is attended to for what it says is none."""
    chosen = places.keys[0].clone()
    for spot in spots:
        if spot.written < settings.drained or spot.is_outlier:
            chosen[spot.prompt - first_prompt, spot.position] = True
    return chosen
