"""What each part of a model writes along a direction of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.readout import is_close, refused
from interp.circuits.writes import MLP, POST, Part, Record, Writers, attention_writes, embed_writes, head_part
from interp.hooks.batch import Batch

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True, eq=False)
class Projection:
    """`o . r` of every part, and of the stream they sum to.

    Attributes:
        parts: embedding, heads, biases and MLPs, in the order in which the model adds them.
        values: of each part.
        leaving: `x . r` of the stream behind each layer, which the parts up to there sum to.
    """

    parts: tuple[Part, ...]
    values: Float[Tensor, "part batch"]
    leaving: dict[int, Float[Tensor, " batch"]]

    def entering(self, layer: int) -> Float[Tensor, " batch"]:
        """Sum over all parts that write before a layer."""
        rows = [index for index, part in enumerate(self.parts) if part.layer is None or part.layer < layer]
        return self.values[rows].sum(0)


@torch.no_grad()
def project(
    model: HookedModel, batch: Batch, read_at: Int[Tensor, " batch"], unit: Float[Tensor, " d_model"]
) -> Projection:
    """Projections at one position of each prompt, in float64.

    Raises:
        InterpError: E403 where the parts do not sum to the stream, or layers do not write by adding.
    """
    writers = Writers.of(model)
    record = Record(read_at)
    model.run_with_hooks(batch, record.hooks(writers.points))
    along = unit.double().to(batch.input_ids.device)
    found: list[tuple[Part, Tensor]] = [(part, rows @ along) for part, rows in embed_writes(writers, record)]
    leaving = {}
    for layer in writers.blocks:
        written = attention_writes(writers, layer, record)
        found += [(head_part(layer, head), rows @ along) for head, rows in enumerate(written.heads.unbind(1))]
        if written.bias is not None:
            found.append((Part(f"L{layer}.attn_bias", "bias", layer), written.bias @ along))
        if layer in writers.mlps:
            found.append((Part(f"M{layer}", "mlp", layer), record[MLP, layer] @ along))
        leaving[layer] = record[POST, layer] @ along
        if not is_close(sum(values for _, values in found), leaving[layer], model.dtype):  # type: ignore[arg-type]
            raise refused(model, f"what its parts write up to layer {layer} does not sum to the stream")
    return Projection(tuple(part for part, _ in found), torch.stack([values for _, values in found]), leaving)
