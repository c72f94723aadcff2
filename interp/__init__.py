"""interp: what does this attention head do, and how do you know?

Names are looked up when they are first used: importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from os.path import dirname, isdir, join
from sys import modules
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import circuits, hooks, kernels
    from interp.ablation.result import AblationResult
    from interp.ablation.run import ablate
    from interp.attribution.result import AttributionResult
    from interp.attribution.run import dla
    from interp.circuits.groups import grow_group
    from interp.circuits.transfer import attention_transfer
    from interp.discovery.result import Circuit
    from interp.discovery.run import circuit
    from interp.heads.patterns.classes import pattern_classes
    from interp.heads.result import HeadScores
    from interp.heads.run import score
    from interp.hooks.generation.result import Generation
    from interp.hooks.generation.sampling import Sampling
    from interp.hooks.interventions import Ablate, Blend, Calibrate, Knockout, Patch, Redistribute, Scale, Steer
    from interp.hooks.model import HookedModel
    from interp.hooks.names import HeadId
    from interp.hooks.swap import Swap
    from interp.kernels.errors import InterpError
    from interp.loading import load
    from interp.maps.result import TokenMaps
    from interp.maps.run import token_maps
    from interp.passport.result import Passport
    from interp.passport.run import passport
    from interp.patching.paths import paths
    from interp.patching.result import PatchResult, PathResult
    from interp.patching.run import patch
    from interp.pictures.depth import depth_profile
    from interp.pictures.distance import attention_by_distance
    from interp.pictures.joint import joint_embedding, joint_embeddings
    from interp.pictures.matrix import head_matrix
    from interp.report.kinds import open_result
    from interp.report.page import report
    from interp.safety.result import SafetyReport
    from interp.safety.run import safety
    from interp.sinks.effects import SinkEffects
    from interp.sinks.result import SinkReport
    from interp.sinks.run import sinks
    from interp.swapping.result import SwapResult
    from interp.swapping.run import swap
    from interp.tasks.registry import task

__version__ = "0.1.0"

_HOMES = {
    "Ablate": "interp.hooks.interventions",
    "AblationResult": "interp.ablation.result",
    "AttributionResult": "interp.attribution.result",
    "Blend": "interp.hooks.interventions",
    "Calibrate": "interp.hooks.interventions",
    "Circuit": "interp.discovery.result",
    "Generation": "interp.hooks.generation.result",
    "HeadId": "interp.hooks.names",
    "HeadScores": "interp.heads.result",
    "HookedModel": "interp.hooks.model",
    "InterpError": "interp.kernels.errors",
    "Knockout": "interp.hooks.interventions",
    "Passport": "interp.passport.result",
    "Patch": "interp.hooks.interventions",
    "PatchResult": "interp.patching.result",
    "PathResult": "interp.patching.result",
    "Redistribute": "interp.hooks.interventions",
    "SafetyReport": "interp.safety.result",
    "Sampling": "interp.hooks.generation.sampling",
    "Scale": "interp.hooks.interventions",
    "SinkEffects": "interp.sinks.effects",
    "SinkReport": "interp.sinks.result",
    "Steer": "interp.hooks.interventions",
    "Swap": "interp.hooks.swap",
    "SwapResult": "interp.swapping.result",
    "TokenMaps": "interp.maps.result",
    "ablate": "interp.ablation.run",
    "attention_by_distance": "interp.pictures.distance",
    "attention_transfer": "interp.circuits.transfer",
    "circuit": "interp.discovery.run",
    "depth_profile": "interp.pictures.depth",
    "dla": "interp.attribution.run",
    "grow_group": "interp.circuits.groups",
    "head_matrix": "interp.pictures.matrix",
    "joint_embedding": "interp.pictures.joint",
    "joint_embeddings": "interp.pictures.joint",
    "load": "interp.loading",
    "open_result": "interp.report.kinds",
    "passport": "interp.passport.run",
    "patch": "interp.patching.run",
    "paths": "interp.patching.paths",
    "pattern_classes": "interp.heads.patterns.classes",
    "report": "interp.report.page",
    "safety": "interp.safety.run",
    "score": "interp.heads.run",
    "sinks": "interp.sinks.run",
    "swap": "interp.swapping.run",
    "task": "interp.tasks.registry",
    "token_maps": "interp.maps.run",
}
_FOLDERS = ("circuits", "hooks", "kernels")
_KERNELS = ("attention", "pattern")
_CALLABLE_FOLDERS = ("passport", "report", "safety", "sinks")

__all__ = [
    "Ablate",
    "AblationResult",
    "AttributionResult",
    "Blend",
    "Calibrate",
    "Circuit",
    "Generation",
    "HeadId",
    "HeadScores",
    "HookedModel",
    "InterpError",
    "Knockout",
    "Passport",
    "Patch",
    "PatchResult",
    "PathResult",
    "Redistribute",
    "SafetyReport",
    "Sampling",
    "Scale",
    "SinkEffects",
    "SinkReport",
    "Steer",
    "Swap",
    "SwapResult",
    "TokenMaps",
    "__version__",
    "ablate",
    "attention_by_distance",
    "attention_transfer",
    "circuit",
    "circuits",
    "depth_profile",
    "dla",
    "grow_group",
    "head_matrix",
    "hooks",
    "joint_embedding",
    "joint_embeddings",
    "kernels",
    "load",
    "open_result",
    "passport",
    "patch",
    "paths",
    "pattern_classes",
    "report",
    "safety",
    "score",
    "sinks",
    "swap",
    "task",
    "token_maps",
]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f"interp.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name.startswith("__"):
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    from interp.kernels.errors import suggest

    raise AttributeError(f"interp has no {name!r}; {suggest(name, __all__)}", name=name, obj=modules[__name__])


def __dir__() -> list[str]:
    return sorted(__all__)


class _CallableFolder(ModuleType):
    """A sub-package that shares its name with a public function: calling it calls the function.

    Importing a sub-package binds its name in this one, over any function; so the folder itself has to answer.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_HOMES[name]), name)(*args, **options)


class _Kernels(ModuleType):
    """`kernels/` has no `__init__.py` that could name its functions: they are looked up when they are first used."""

    def __getattr__(self, name: str) -> Any:
        if name in _KERNELS:
            return import_module(f"{self.__name__}.{name}")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _check_links() -> None:
    broken = [name for name in _FOLDERS if not isdir(join(dirname(__file__), name))]
    if broken:
        raise ImportError(
            f"interp/{broken[0]} is not a folder: the checkout lost its symbolic links (interp/circuits, interp/hooks, "
            "interp/kernels).\n  fix:   git config core.symlinks true && git checkout -- interp   "
            "(or install a wheel, which needs no links)"
        )


_check_links()
import_module("interp.kernels").__class__ = _Kernels
for _name in _CALLABLE_FOLDERS:
    import_module(f"interp.{_name}").__class__ = _CallableFolder
