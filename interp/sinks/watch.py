"""What one forward tells of sinks, layer by layer: attention received, lengths of values and outputs, the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.hooks.adapters.base import HookContext, HookFn, Operator
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.names import point_name
from interp.hooks.statistics import Measuring
from interp.kernels.errors import InterpError
from interp.kernels.statistics.base import Statistic
from interp.kernels.statistics.masses import Mass, SinkMass
from interp.kernels.statistics.received import Received
from interp.sinks.robust import massive, outliers
from interp.sinks.settings import Settings
from interp.sinks.visibility import visibility

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

UNIT = 1e-3
"""How far a row may be from mass 1 before it counts as a row of another mass."""


@dataclass
class Layer:
    """What one layer showed. Positions are those of the batch; numbers at padding mean nothing.

    Attributes:
        count: queries that may see each key.
        uniform: what even attention would give it.
        received: effective weight that a key receives from each query that may see it, on average.
        mass: of each query's row; 1 for a softmax, less where a sink logit takes a part.
        on_sinks: effective weight of each row on the keys that were asked about.
        has_logit, is_causal: whether the layer has a learned sink logit, and hides later keys.
        values, written: length of each key's value, and of what it writes through W_O.
        output, gate: length of z W_O, and of z after a gate over that before it.
        norm, is_long: length of the stream that enters the layer over the prompt's median, and whether it is an outlier.
        peak, dimension, is_massive: the same for each token's largest entry, and where it stands.
    """

    count: Float[Tensor, "batch pos"] = field(init=False)
    uniform: Float[Tensor, "batch pos"] = field(init=False)
    received: Float[Tensor, "batch head pos"] = field(init=False)
    mass: Float[Tensor, "batch head pos"] = field(init=False)
    on_sinks: Float[Tensor, "batch head pos"] = field(init=False)
    has_logit: bool = False
    is_causal: bool = True
    values: Float[Tensor, "batch head pos"] = field(init=False)
    written: Float[Tensor, "batch head pos"] = field(init=False)
    output: Float[Tensor, "batch head pos"] = field(init=False)
    gate: Float[Tensor, "batch head pos"] = field(init=False)
    norm: Float[Tensor, "batch pos"] = field(init=False)
    is_long: Bool[Tensor, "batch pos"] = field(init=False)
    peak: Float[Tensor, "batch pos"] = field(init=False)
    dimension: Int[Tensor, "batch pos"] = field(init=False)
    is_massive: Bool[Tensor, "batch pos"] = field(init=False)


class Watch(Operator):
    """Hook on `attn.hook_operator`: the model's own attention, and what it says of sinks."""

    def __init__(
        self, layer: Layer, w_o: Float[Tensor, "head d_head d_model"], sinks: Bool[Tensor, "batch pos"]
    ) -> None:
        self.heads, self.layer, self.sinks = range(len(w_o)), layer, sinks
        self.root = torch.linalg.qr(w_o.float().transpose(1, 2)).R

    def __call__(self, value: Tensor, context: HookContext) -> Float[Tensor, "batch pos head d_head"]:
        call, found = context.call, self.layer
        assert call is not None, f"{context.name} was not told what attention was called with"
        wanted: dict[str, str | Statistic] = {"mass": Mass(), "received": Received(), "on": SinkMass(keys=self.sinks)}
        measure = Measuring(len(self.heads), wanted, "auto")
        z = measure(value, context)
        found.mass = measure.found["mass"].nan_to_num()
        received = measure.found["received"]
        real = ~measure.found["mass"].isnan()
        if bool(((found.mass - 1).abs() > UNIT)[real].any()):
            weighted = Measuring(len(self.heads), {"received": Received(weights=found.mass)}, "auto")
            weighted(value, context)
            received = weighted.found["received"]
        found.count, found.uniform, found.is_causal = visibility(call)
        found.received = received.double() / found.count.clamp(min=1)[:, None]
        found.on_sinks = measure.found["on"].nan_to_num() * found.mass
        found.has_logit = call.options.get("s_aux") is not None
        group = len(self.heads) // call.v.shape[1]
        values = call.v.float().repeat_interleave(group, 1)
        found.values, found.written = values.norm(dim=-1), self.lengths(values)
        found.gate = z.float().norm(dim=-1).transpose(1, 2)
        return z

    def lengths(self, z: Float[Tensor, "batch head pos d_head"]) -> Float[Tensor, "batch head pos"]:
        """`||z W_O||`: with W_O^T = Q R it is `||R z||`."""
        return einsum(z.float(), self.root, "batch head pos inner, head row inner -> batch head pos row").norm(dim=-1)

    def wrote(self, z: Tensor, context: HookContext) -> None:
        """Hook on `attn.hook_z`: what goes into the output projection, after a gate where there is one."""
        after = z.float().transpose(1, 2)
        self.layer.output = self.lengths(after)
        before = self.layer.gate
        self.layer.gate = torch.where(before > 0, after.norm(dim=-1) / before.clamp(min=1e-30), 1.0)


def observe(
    model: HookedModel,
    batch: Batch,
    settings: Settings,
    sinks: Bool[Tensor, "batch pos"],
    layers: tuple[int, ...],
) -> Mapping[int, Layer]:
    """One forward, watched.

    Args:
        sinks: keys whose share of every row is wanted.

    Raises:
        InterpError: E403, a layer that computes attention in its own code, or a model without a stream to read.
    """
    found = {layer: Layer() for layer in layers}
    hooks: dict[str, HookFn] = {}
    assert batch.mask is not None
    for layer, seen in found.items():
        watch = Watch(seen, model.w_out(layer), sinks.to(model.device))
        hooks[point_name(OPERATOR, layer)] = watch
        hooks[point_name("attn.hook_z", layer)] = watch.wrote
        hooks[point_name("hook_resid_pre", layer)] = _stream(seen, batch.mask, settings)
    model.run_with_hooks(batch, hooks)
    return found


def _stream(found: Layer, mask: Bool[Tensor, "batch pos"], settings: Settings) -> HookFn:
    def read(x: Tensor, context: HookContext) -> None:
        real, stream = mask.to(x.device), x.float()
        found.norm, found.is_long = outliers(stream.norm(dim=-1), real, settings.k)
        found.peak, found.dimension, found.is_massive = massive(stream, real, settings.k, settings.rule)

    return read


def check(model: HookedModel, layers: tuple[int, ...]) -> None:
    """Refuse a model whose layers cannot be watched (E403)."""
    for layer in layers:
        for kind in (OPERATOR, "attn.hook_z", "hook_resid_pre"):
            model.check_point(point_name(kind, layer))
    if not layers:
        raise InterpError("E401", f"{model.name} has no attention in its main tower")
