"""Taking tokens away: nobody looks at them any more, or a neutral token stands in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import replace_stream
from interp.hooks.interventions import Hook, Intervention
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError, suggest
from interp.maps.look import STREAM, Look

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

WAYS = ("knockout", "neutral")
WHERE = "where"


@dataclass(frozen=True)
class Unseen(Intervention):
    """No other token looks at these, in any layer or head; the rest of each row is normalised again.

    A token that is taken away still sees itself, so that no row is left without a key. Nobody reads it.

    Args:
        where: under `WHERE`, True at what is taken away [batch pos].
    """

    where: Reference

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def forbid(scores: Tensor, context: HookContext) -> Tensor:
            gone = self.where[WHERE].to(scores.device)[:, None, None, :]
            own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)[-scores.shape[-2] :]
            return scores.masked_fill(gone & ~own, torch.finfo(scores.dtype).min)

        layers = [layer for layer, n in enumerate(model.heads[""]) if n]
        return [(point_name("attn.hook_attn_scores", layer), forbid) for layer in layers]


@dataclass(frozen=True)
class Replaced(Intervention):
    """The stream that enters the first layer is another one at these tokens.

    Args:
        where: under `WHERE`, True at what is taken away [batch pos].
        stream: under the name of the stream, what stands there instead [batch pos d_model].
    """

    where: Reference
    stream: Reference

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def put(x: Tensor, context: HookContext) -> Tensor:
            return torch.where(self.where[WHERE].to(x.device)[..., None], self.stream[STREAM].to(x), x)

        return [(STREAM, replace_stream(batch, None, put))]


def removal(look: Look, where: Bool[Tensor, "batch pos"], way: str) -> Intervention:
    """The intervention that takes these tokens away.

    Raises:
        InterpError: E201, another way than 'knockout' or 'neutral'.
    """
    if way not in WAYS:
        raise InterpError("E201", f"tokens cannot be taken away by {way!r}", fix=suggest(way, WAYS))
    gone = Reference({WHERE: where}, "tokens taken away", paired=True)
    if way == "knockout":
        return Unseen(gone)
    return Replaced(gone, Reference({STREAM: look.neutral_stream}, "a run of neutral tokens", paired=True))


def leave_one_out(look: Look, tokens: Bool[Tensor, "batch pos"], way: str) -> Tensor:
    """What the metric loses without each token [batch pos]; nan where `tokens` is False."""
    places = range(tokens.shape[1])
    variants = [removal(look, only(tokens, [place]), way) for place in places]
    falls = (look.baseline - look.under(variants)).T
    return falls.masked_fill(~tokens.cpu(), torch.nan)


def only(tokens: Bool[Tensor, "batch pos"], places: Sequence[int]) -> Bool[Tensor, "batch pos"]:
    """Of some tokens those at these positions."""
    kept = torch.zeros_like(tokens)
    kept[:, list(places)] = True
    return tokens & kept
