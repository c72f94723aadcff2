"""Interventions as data: frozen, hashable, serialisable values that say what is changed, where and to what.

`with model.edit(Ablate(heads=["L3H1"], operator="zero")): ...` applies them; see `HookedModel.edit`.
"""

from interp.hooks.interventions.base import Hook, Intervention, by_layer
from interp.hooks.interventions.calibration import Calibrate
from interp.hooks.interventions.heads import OPERATORS, PATTERN_OPERATORS, Z_OPERATORS, Ablate, Scale
from interp.hooks.interventions.looks import Blend, Knockout, Redistribute
from interp.hooks.interventions.values import KV_POINTS, STREAM_POINTS, Patch, Steer

__all__ = [
    "KV_POINTS",
    "OPERATORS",
    "PATTERN_OPERATORS",
    "STREAM_POINTS",
    "Z_OPERATORS",
    "Ablate",
    "Blend",
    "Calibrate",
    "Hook",
    "Intervention",
    "Knockout",
    "Patch",
    "Redistribute",
    "Scale",
    "Steer",
    "by_layer",
]
