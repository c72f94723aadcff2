"""Where heads may look, and how much of their attention goes where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import (
    Cells,
    Positions,
    identity_pattern,
    key_mask,
    never_blind,
    replace_rows,
    shared_out,
    uniform_pattern,
)
from interp.hooks.interventions.base import Hook, Intervention, by_layer
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True)
class Knockout(Intervention):
    """Forbid queries to look at keys: the scores become -inf and the rest is normalised again.

    Args:
        heads: labels or 'all'.
        queries: where the look comes from: None for all, 'end', a role of the task, or token positions.
        keys: what may not be looked at: a role or token positions.

    Forbidding every key that a query may see is refused (E205) when it runs: the softmax would have nothing left.
    """

    heads: Any
    queries: Positions
    keys: str | Cells

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def forbid(scores: Tensor, context: HookContext) -> Tensor:
            return scores.masked_fill(key_mask(batch, self.keys, context, scores), torch.finfo(scores.dtype).min)

        return [
            (
                point_name("attn.hook_attn_scores", layer, tower),
                never_blind(replace_rows(batch, heads, self.queries, forbid), batch),
            )
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]


@dataclass(frozen=True)
class Redistribute(Intervention):
    """Take a share of the attention on some keys and give it to others, in proportion to what they have.

    Args:
        heads: labels or 'all'.
        take: keys that give attention up: a role or token positions.
        give: keys that get it; None for all other visible keys.
        share: part taken, 0 to 1.
        queries: None for all, 'end', a role or token positions.

    Row sums stay as they were. A query that sees none of `give` is left as it is.
    """

    heads: Any
    take: str | Cells
    give: str | Cells | None = None
    share: float = 1.0
    queries: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise InterpError("E205", f"share {self.share} is not between 0 and 1")

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def move(pattern: Tensor, context: HookContext) -> Tensor:
            takes = key_mask(batch, self.take, context, pattern)
            gives = ~takes if self.give is None else key_mask(batch, self.give, context, pattern)
            if bool((takes & gives).any()):
                raise InterpError("E205", "a key cannot both give and get attention", where=context.name)
            return shared_out(pattern, takes, gives, self.share)

        return [
            (point_name("attn.hook_pattern", layer, tower), replace_rows(batch, heads, self.queries, move))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]


BLENDS = {"identity": identity_pattern, "uniform": uniform_pattern}


@dataclass(frozen=True)
class Blend(Intervention):
    """Mix a head's attention with another map: `(1 - share) A + share B`.

    With B the identity this is SoftPAG of HeadHunter (Ahn et al. 2025, arXiv 2506.10978).

    Args:
        heads: labels or 'all'.
        share: of the other map, 0 (nothing changes) to 1.
        target: 'identity', each token sees itself, or 'uniform' over the keys that a query may see.
        queries: None for all, 'end', a role or token positions.

    Raises:
        InterpError: E201 unknown target; E205 a share outside 0 to 1.
    """

    heads: Any
    share: float
    target: str = "identity"
    queries: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in BLENDS:
            raise InterpError("E201", f"no map {self.target!r} to blend with", fix=suggest(self.target, BLENDS))
        if not 0 <= self.share <= 1:
            raise InterpError("E205", f"share {self.share} is not between 0 and 1")

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def mix(pattern: Tensor, context: HookContext) -> Tensor:
            return torch.lerp(pattern, BLENDS[self.target](pattern, context), self.share)

        return [
            (point_name("attn.hook_pattern", layer, tower), replace_rows(batch, heads, self.queries, mix))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]
