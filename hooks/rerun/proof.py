"""Proof that a model may be restarted: a few variants on its probe input, by each route and by full forwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from interp.hooks.interventions import Ablate, Scale
from interp.hooks.names import HeadId
from interp.hooks.probe import TOLERANCE
from interp.hooks.prompts import from_inputs

if TYPE_CHECKING:
    from interp.hooks.adapters.base import Adapter
    from interp.hooks.model import HookedModel
    from interp.hooks.rerun.change import Variant

PROVEN: WeakKeyDictionary[Adapter, dict[str, str]] = WeakKeyDictionary()


def distrust(model: HookedModel) -> dict[str, str]:
    """Routes that do not give the numbers of full forwards on this model, with the reason; found once a model."""
    if model.adapter not in PROVEN:
        PROVEN[model.adapter] = _distrust(model)
    return PROVEN[model.adapter]


def _distrust(model: HookedModel) -> dict[str, str]:
    from interp.hooks.rerun.engine import Rerun

    batch = from_inputs(model.adapter.probe_inputs)
    is_read = model.adapter.output_name == "logits" and batch.mask is not None
    read_at = batch.end.cpu() if is_read else torch.full((batch.size,), -1)
    variants = _variants(model, 0 if batch.mask is None else batch.mask.shape[1] // 2)
    engine: Any = Rerun(model, batch, variants, read_at, proven=False)
    found: dict[str, str] = {}
    if engine.why_forward:
        return found
    plain = [engine._forward(index) for index in range(len(variants))]
    for chunk in engine.plan().chunks:
        layers = replace(chunk, route="layers", layer=min(point.layer for point in engine.hooks[chunk.variants[0]]))
        for route in (chunk, layers):
            if route.route in ("forward", "nothing") or route.route in found:
                continue
            for index, output in zip(chunk.variants, engine.run(route), strict=True):
                difference = float((output.double() - plain[index].double()).abs().max())
                allowed = TOLERANCE[model.dtype] * max(1.0, float(plain[index].abs().max()))
                if not difference <= allowed:
                    found[route.route] = f"on the probe input it differs by {difference:.1e} from a full forward"
    return found


def _variants(model: HookedModel, position: int) -> list[Variant]:
    """A head taken away in the first, middle and last layer, everywhere and at one position, and two heads at once."""
    layers = [layer for layer, count in enumerate(model.heads[""]) if count]
    chosen = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    heads = [HeadId("", layer, 0) for layer in chosen]
    return [
        *(Ablate(heads=(head,), positions=where) for head in heads for where in (None, position)),
        Scale(heads=tuple(heads), factor=-2.0),
    ]
