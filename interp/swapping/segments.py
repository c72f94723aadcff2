"""Heads that see by segments of a prompt: its first tokens, the segment that a query stands in, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.interventions import Hook, Intervention, by_layer
from interp.hooks.names import point_name
from interp.hooks.swap import Swapped
from interp.kernels.errors import InterpError, suggest
from interp.kernels.variants.document import Document, Mask

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True)
class SegmentSwap(Intervention):
    """Let heads attend by `interp.kernels.variants.document.Document`, whose segments are roles of the prompts at hand.

    Args:
        heads: labels; `L3H*` and 'all' work too.
        mask: 'sink', 'document' or 'document+sink'.
        sink_tokens: first tokens of the prompt that count as sinks.
        roles: each is a segment, and all other tokens are one; where roles overlap, the longer one holds. None: the
            whole prompt is one segment.
        backend: of `interp.kernels.attention`.

    Raises:
        InterpError: when it runs, E313 a role that the prompts do not have.
    """

    heads: Any
    mask: Mask
    sink_tokens: int = 1
    roles: tuple[str, ...] = ()
    backend: str = "auto"

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        document = self.document(batch)
        return [
            (point_name(OPERATOR, layer, tower), Swapped(heads, document, self.backend))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]

    def document(self, batch: Batch) -> Document:
        """The operator for these prompts."""
        segments = segments_of(batch, self.roles)
        return Document(mask=self.mask, sinks_of="text", sink_tokens=self.sink_tokens, segments=segments)


def segments_of(batch: Batch, roles: tuple[str, ...]) -> Int[Tensor, "batch pos"]:
    """A number for each token's segment: 0 outside of all roles.

    Raises:
        InterpError: E313 a role that these prompts do not have.
    """
    segments = torch.zeros(batch.input_ids.shape, dtype=torch.long, device=batch.input_ids.device)
    for role in roles:
        if role not in batch.spans:
            raise InterpError("E313", f"these prompts have no role {role!r}", fix=suggest(role, batch.spans))
    for row in range(batch.size):
        for role in sorted(roles, key=lambda role: len(batch.spans[role][row])):
            segments[row, list(batch.spans[role][row])] = 1 + roles.index(role)
    return segments
