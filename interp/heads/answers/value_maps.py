"""The linear layers that make values, so that heads can be given something else to read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.circuits.readout import is_close, main_tower
from interp.hooks.adapters.projections import Projection, candidates
from interp.hooks.batch import Batch
from interp.hooks.names import HeadId, point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class ValueMaps:
    """Value projections of a model, by layer, and what each of them read of one batch: the stream behind a norm."""

    model: HookedModel
    projections: dict[int, Projection]
    read: dict[int, Float[Tensor, "batch pos d_model"]]

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedModel, batch: Batch) -> ValueMaps:
        """Found by the values that attention got on this batch.

        Raises:
            InterpError: E403, a layer whose values are not made by a linear layer that we know.
        """
        blocks = main_tower(model).blocks
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def note(module: nn.Module, args: Any, output: Any) -> None:
            seen[id(module)] = (args[0], output)

        names = {layer: point_name("attn.hook_v", layer) for layer in blocks}
        with ExitStack() as stack:
            for module in {found["v"].module for block in blocks.values() for found in candidates(block)}:
                stack.callback(module.register_forward_hook(note).remove)
            _, cache = model.run_with_cache(batch, list(names.values()))
        projections, read = {}, {}
        for layer, block in blocks.items():
            for projection in (found["v"] for found in candidates(block)):
                ran = seen.get(id(projection.module))
                if ran is not None and _same(projection.view(ran[1]), cache[names[layer]], model.dtype):
                    projections[layer], read[layer] = projection, ran[0]
                    break
            else:
                what = f"the values of layer {layer} can't be computed apart"
                raise InterpError("E403", what, where=model.name, fix="score name movers instead: name-mover")
        return cls(model, projections, read)

    @torch.no_grad()
    def values(
        self, head: HeadId, read: Float[Tensor, "place d_model"], *, bias: bool
    ) -> Float[Tensor, "place d_head"]:
        """What a head makes of something to read, with or without the bias of the layer."""
        projection = self.projections[head.layer]
        made = projection.module(read[None])
        made = made if bias else made - projection.module(torch.zeros_like(read[None]))
        return projection.view(made)[0, :, self.model.kv_head(head)]


def _same(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    return one.shape == other.shape and is_close(one, other, dtype)
