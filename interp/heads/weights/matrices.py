"""The weights of heads as maps of the residual stream, with the gains of the norms before them folded in."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.circuits.readout import Norm
from interp.hooks.adapters.projections import Projection, candidates
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

CLOSE = 1e-4
Reads = Float[Tensor, "head d_model d_head"]


@dataclass(frozen=True, eq=False)
class Matrices:
    """One layer of heads, float64; key/value heads stand once for each query head that reads them.

    Rotary positions and biases are no part of them, and the scale of a norm is 1.
    """

    q: Reads
    k: Reads
    v: Reads
    o: Float[Tensor, "head d_head d_model"]


@torch.no_grad()
def matrices(model: HookedModel) -> dict[int, Matrices]:
    """Layer -> matrices, for the layers with attention of the main tower.

    Raises:
        InterpError: E403 where projections can't be found, or something other than a norm stands before them.
    """
    towers = getattr(model.adapter, "towers", None)
    if towers is None:
        raise _refused(model, "it is a TransformerLens bridge")
    blocks = towers[""].blocks
    seen = _watched(model, blocks)
    return {layer: _of_layer(model, layer, block, seen) for layer, block in blocks.items()}


def _of_layer(model: HookedModel, layer: int, block: Any, seen: dict[Any, Any]) -> Matrices:
    """Projections that give the values that attention got, behind the norm that made their input."""
    for found in candidates(block):
        if id(found["v"].module) in seen and _same(found["v"].view(seen[id(found["v"].module)][1]), seen[layer]):
            break
    else:
        raise _refused(model, f"the projections of layer {layer} can't be found")
    entered = seen[id(found["v"].module)][0]
    before = [child for child in block.module.children() if id(child) in seen and seen[id(child)][1] is entered]
    norm = Norm.of(before[0], entered.shape[-1]) if before else None
    if before and norm is None:
        raise _refused(model, f"what stands before attention in layer {layer} is no norm")
    reads = {name: _read(projection, entered, norm) for name, projection in found.items()}
    group = block.n_heads // block.n_kv_heads
    k, v = (reads[name].repeat_interleave(group, 0) for name in "kv")
    return Matrices(reads["q"], k, v, model.w_out(layer).double())


def _watched(model: HookedModel, blocks: dict[int, Any]) -> dict[Any, Any]:
    """Of one probe run: module id -> (input, output), and layer -> the values that attention got."""
    seen: dict[Any, Any] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        seen[id(module)] = (args[0] if args else None, output)

    with ExitStack() as stack:
        for block in blocks.values():
            projections = {id(one.module): one.module for found in candidates(block) for one in found.values()}
            children = [child for child in block.module.children() if child is not block.attn]
            for module in [*projections.values(), *children]:
                stack.callback(module.register_forward_hook(note).remove)
        names = {point_name("attn.hook_v", layer): layer for layer in blocks}
        _, cache = model.run_with_cache(dict(model.adapter.probe_inputs), list(names))
    return seen | {layer: cache[name] for name, layer in names.items()}


def _read(projection: Projection, like: Tensor, norm: Norm | None) -> Reads:
    """What a projection reads, head by head: its linear part, and the gain of the norm before it."""
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)[None]
    linear = projection.view(projection.module(eye) - projection.module(torch.zeros_like(eye)))[0].double()
    reads = linear.permute(1, 2, 0)
    return folded(norm, reads.flatten(0, 1)).view_as(reads).transpose(1, 2)


def folded(norm: Norm | None, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What reads the stream before a norm of scale 1 as these rows read it behind the norm."""
    return rows if norm is None else norm.fold(rows, rows.new_ones(len(rows), 1))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= CLOSE * (1 + other.abs().max()))


def _refused(model: HookedModel, why: str) -> InterpError:
    return InterpError(
        "E403", f"the weights of {model.name} can't be read as maps of its stream: {why}", fix="score attention instead"
    )
