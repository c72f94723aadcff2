"""VAR: attention that rests on sinks is given to the rest of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import New, Positions, replace_rows, shared_out
from interp.hooks.interventions import Hook, Intervention, by_layer
from interp.hooks.naive import batches
from interp.hooks.names import point_name
from interp.hooks.reference import Reference
from interp.kernels.errors import InterpError
from interp.vision.edits import at_keys, from_first
from interp.vision.pictures import Read, after_image, image_tokens
from interp.vision.sinks import Sinks, find_sinks

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

FIRST_LAYER = 2
"""The published code leaves the layers before it alone."""


@dataclass(frozen=True)
class ShareSinks(Intervention):
    """VAR: in image-centric heads, attention on sinks goes to the picture's other tokens, in proportion to what they have.

    Kang et al. 2025, arXiv 2503.03321; figures of the published code (seilk/VisAttnSink). Row by row, a head is
    image-centric if at least `seen` of its attention is on the picture and at most `on_sinks` of that on visual sinks.
    Row sums stay, and nothing becomes negative; rows whose image attention is all on sinks are left as they are, where the
    published code divides by 0. That code takes one prompt a batch; here each prompt has its own sinks.

    Args:
        heads: labels or 'all'.
        sinks: `L2` and so on -> [batch token], 1 at sinks, of text and picture alike; layers without are left alone. Paired.
        keep: what a sink keeps of its attention.
        on_sinks, seen: see above.
        queries: None takes every token behind the picture and what is written after it.

    Raises:
        InterpError: E205, a share outside 0 to 1.
    """

    heads: Any
    sinks: Reference
    keep: float = 0.6
    on_sinks: float = 0.5
    seen: float = 0.2
    queries: Positions = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= share <= 1 for share in (self.keep, self.on_sinks, self.seen)):
            raise InterpError(
                "E205", f"keep={self.keep}, on_sinks={self.on_sinks}, seen={self.seen}", fix="0 to 1 each"
            )

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        image, behind = image_tokens(batch), after_image(batch)
        found: list[Hook] = []
        for (tower, layer), heads in by_layer(self.heads, model.heads).items():
            if f"L{layer}" in self.sinks.values:
                move = self._mover(batch, image, behind, layer)
                found.append(
                    (point_name("attn.hook_pattern", layer, tower), replace_rows(batch, heads, self.queries, move))
                )
        return found

    def _mover(
        self, batch: Batch, image: Bool[Tensor, "batch pos"], behind: Bool[Tensor, "batch pos"], layer: int
    ) -> New:
        def move(pattern: Tensor, context: HookContext) -> Tensor:
            sinks = at_keys(self.sinks[f"L{layer}"], batch, pattern.shape[-1]).to(pattern.device).bool()
            seen, rows = image.to(pattern.device), behind[:, context.start : context.start + pattern.shape[2]]
            chosen = image_centric(pattern, sinks, seen, self.on_sinks, self.seen) & rows.to(pattern.device)[:, None]
            moved = shared_out(pattern, sinks[:, None, None], (seen & ~sinks)[:, None, None], 1 - self.keep)
            return torch.where(chosen[..., None], moved, pattern)

        return move


def image_centric(
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    sinks: Bool[Tensor, "batch key_pos"],
    image: Bool[Tensor, "batch key_pos"],
    on_sinks: float,
    seen: float,
) -> Bool[Tensor, "batch head query_pos"]:
    """Rows that look at a picture, and not mostly at its sinks; none in prompts without a visual sink."""
    visual = sinks & image
    mass = (pattern * image[:, None, None]).sum(-1)
    share = (pattern * visual[:, None, None]).sum(-1) / mass.clamp(min=torch.finfo(pattern.dtype).tiny)
    return (share <= on_sinks) & (mass >= seen) & visual.any(-1)[:, None, None]


def redistribution(
    model: HookedModel,
    read: Read,
    *,
    heads: Any = "all",
    layers: Sequence[int] | None = None,
    dimensions: Sequence[int] | None = None,
    tau: float | None = None,
    keep: float = 0.6,
    on_sinks: float = 0.5,
    seen: float = 0.2,
    batch_size: int = 64,
) -> ShareSinks | None:
    """VAR on these prompts; None where no layer has a visual sink, so that nothing would be moved.

    Sinks are those of the run without the intervention; the published code finds them while it changes earlier layers.

    Args:
        layers: where attention is shared out; None, layer 2 and later.
        dimensions, tau: as in `find_sinks`, found from all of these prompts where they are not given.

    Raises:
        InterpError: as `find_sinks` and `ShareSinks`.
    """
    chosen = list(range(FIRST_LAYER, model.n_layers)) if layers is None else list(layers)
    parts = [
        find_sinks(model, read[0].rows(start, stop), layers=chosen, dimensions=dimensions, tau=tau)
        for start, stop in batches(read[0].size, batch_size)
    ]
    with_sinks = [layer for layer in chosen if any(bool(one.visual(layer).any()) for one in parts)]
    if not with_sinks:
        return None
    values = {f"L{layer}": _tokens(parts, layer, read) for layer in with_sinks}
    return ShareSinks(heads, Reference(values, "visual sinks", paired=True), keep, on_sinks, seen)


def _tokens(parts: Sequence[Sinks], layer: int, read: Read) -> Float[Tensor, "batch token"]:
    return from_first(torch.cat([one.tokens[layer] for one in parts]).float(), read[0])
