"""The weights of heads as maps of the residual stream, with the gains of the norms before them folded in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.readout import Norm
from interp.hooks.reads import Reads
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Reading = Float[Tensor, "head d_model d_head"]


@dataclass(frozen=True, eq=False)
class Matrices:
    """One layer of heads, float64; key/value heads stand once for each query head that reads them.

    Rotary positions and biases are no part of them, and the scale of a norm is 1.
    """

    q: Reading
    k: Reading
    v: Reading
    o: Float[Tensor, "head d_head d_model"]


@torch.no_grad()
def matrices(model: HookedModel) -> dict[int, Matrices]:
    """Layer -> matrices, for the layers with attention of the main tower.

    Raises:
        InterpError: E403 where projections can't be found, or something other than a norm stands before them.
    """
    return {layer: _of_layer(model, layer) for layer, heads in enumerate(model.heads[""]) if heads}


def _of_layer(model: HookedModel, layer: int) -> Matrices:
    reads, written = Reads.of(model, layer), model.w_out(layer).double()
    norm = None if reads.norm is None else Norm.of(reads.norm, written.shape[-1], written.device)
    if reads.norm is not None and norm is None:
        raise InterpError(
            "E403",
            f"the weights of {model.name} can't be read as maps of its stream: what stands before attention in layer "
            f"{layer} is no norm",
            fix="score attention instead",
        )
    group = len(written) // len(reads.weights["k"])
    q, k, v = (_read(reads.weights[name].double(), norm) for name in "qkv")
    return Matrices(q, k.repeat_interleave(group, 0), v.repeat_interleave(group, 0), written)


def _read(weight: Reading, norm: Norm | None) -> Reading:
    """What a projection reads, head by head: its weights, and the gain of the norm before it."""
    rows = weight.transpose(1, 2)
    return folded(norm, rows.flatten(0, 1)).view_as(rows).transpose(1, 2)


def folded(norm: Norm | None, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What reads the stream before a norm of scale 1 as these rows read it behind the norm."""
    return rows if norm is None else norm.fold(rows, rows.new_ones(len(rows), 1))
