"""What can be done about a sink, as interventions on the prompts of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.hooks.batch import Batch
from interp.hooks.interventions import Ablate, Intervention, Knockout, Patch, Redistribute
from interp.hooks.names import parse_head, point_name
from interp.hooks.reference import Reference
from interp.hooks.swap import Swap
from interp.kernels.variants.calibration import SinkCalibration
from interp.kernels.variants.clipped import Clipped

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

SINK, SIGHTED = "the sink", "queries with another key"
REMOVED, ZEROED, SHARED = "sink removed", "sink's value zeroed", "attention shared out"
MOVED, CLIPPED, CALIBRATED = "moved to the first token", "clipped softmax", "sinks calibrated"
Heads = tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    """Something that is done to heads.

    Attributes:
        says: in a few words, for readers.
        control: what its controls change: the 'key' (another one than the sink) or the 'heads'.
        make: (heads, role of the keys, role of the queries) -> the intervention.
        needs_softmax: whether it puts a softmax in place of the model's own operator.
    """

    name: str
    says: str
    control: Literal["key", "heads"]
    make: Callable[[Heads, str, str], Intervention]
    needs_softmax: bool = False


def edits(model: HookedModel, share: float) -> tuple[Edit, ...]:
    """All of them, in the order of the table.

    Args:
        share: of the sink's attention that is shared out.
    """
    return (
        Edit(REMOVED, "no query may look at it", "key", lambda heads, keys, queries: Knockout(heads, queries, keys)),
        Edit(ZEROED, "it is looked at, and carries nothing", "key", lambda heads, keys, _: _no_value(model, heads, keys)),
        Edit(SHARED, f"{share:.0%} of what it receives goes to the other keys", "key",
             lambda heads, keys, _: Redistribute(heads, take=keys, share=share)),
        Edit(MOVED, "heads look there from everywhere", "heads", lambda heads, *_: Ablate(heads, operator="to-sink")),
        Edit(CLIPPED, "weights under 0.03 become 0 (gamma -0.03)", "heads",
             lambda heads, *_: Swap(heads, Clipped(gamma=-0.03)), needs_softmax=True),
        Edit(CALIBRATED, "all sinks but the first are turned down (ACT)", "heads",
             lambda heads, *_: Swap(heads, SinkCalibration()), needs_softmax=True),
    )  # fmt: skip


def _no_value(model: HookedModel, heads: Sequence[str], keys: str) -> Intervention:
    """Values of the key/value heads that these heads read; heads that share them are changed too."""
    read = dict.fromkeys((head.layer, model.kv_head(head)) for head in map(parse_head, heads))
    zeros = {
        point_name("attn.hook_v", layer): torch.zeros(model.kv_heads[""][layer], model.w_out(layer).shape[1])
        for layer, _ in read
    }
    return Patch("v", Reference(zeros, "zero"), kv_heads=tuple(read), positions=keys)


def with_keys(batch: Batch, sets: Mapping[str, Bool[Tensor, "batch pos"]], *, causal: bool) -> Batch:
    """The batch with roles for sets of keys, and for the queries that see a key beside them (`SIGHTED` and the name)."""
    assert batch.mask is not None
    real, spans = batch.mask.cpu(), dict(batch.spans)
    for name, keys in sets.items():
        others = real & ~keys
        sees = others.cumsum(-1) > 0 if causal else others.any(-1, keepdim=True).expand_as(real)
        spans[name], spans[sighted(name)] = _spans(keys), _spans(sees & real)
    return replace(batch, spans=spans)


def sighted(keys: str) -> str:
    """Role of the queries that see a key beside these."""
    return f"{SIGHTED}: {keys}"


def other_keys(
    batch: Batch, sinks: Bool[Tensor, "batch pos"], read_at: Tensor, n: int, seed: int
) -> list[Bool[Tensor, "batch pos"]]:
    """n random sets of keys to compare the sink with: as many of each prompt, from its first half where that has so
    many, since early keys are seen by most queries; never where the answer is read. All others where a prompt has fewer."""
    assert batch.mask is not None
    rng, drawn = np.random.default_rng([seed, 3]), []
    lengths = batch.lengths.tolist()
    for _ in range(n):
        chosen = torch.zeros_like(sinks)
        for row, real in enumerate(batch.mask.cpu()):
            free = real & ~sinks[row]
            if int(read_at[row]) >= 0:
                free[int(read_at[row])] = False
            places, wanted = free.nonzero().flatten().numpy(), int(sinks[row].sum())
            early = places[places < lengths[row] // 2]
            pool = early if len(early) >= wanted else places
            chosen[row, rng.choice(pool, min(wanted, len(pool)), replace=False).tolist()] = True
        drawn.append(chosen)
    return drawn


def _spans(where: Bool[Tensor, "batch pos"]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row.nonzero().flatten().tolist()) for row in where)
