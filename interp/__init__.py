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
    from interp.heads.result import HeadScores
    from interp.heads.run import score
    from interp.hooks.interventions import Ablate, Knockout, Patch, Redistribute, Scale, Steer
    from interp.hooks.model import HookedModel
    from interp.hooks.names import HeadId
    from interp.hooks.swap import Swap
    from interp.kernels.errors import InterpError
    from interp.loading import load
    from interp.patching.paths import paths
    from interp.patching.result import PatchResult, PathResult
    from interp.patching.run import patch
    from interp.report.page import report
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
    "HeadId": "interp.hooks.names",
    "HeadScores": "interp.heads.result",
    "HookedModel": "interp.hooks.model",
    "InterpError": "interp.kernels.errors",
    "Knockout": "interp.hooks.interventions",
    "Patch": "interp.hooks.interventions",
    "PatchResult": "interp.patching.result",
    "PathResult": "interp.patching.result",
    "Redistribute": "interp.hooks.interventions",
    "Scale": "interp.hooks.interventions",
    "SinkEffects": "interp.sinks.effects",
    "SinkReport": "interp.sinks.result",
    "Steer": "interp.hooks.interventions",
    "Swap": "interp.hooks.swap",
    "SwapResult": "interp.swapping.result",
    "ablate": "interp.ablation.run",
    "attention_transfer": "interp.circuits.transfer",
    "dla": "interp.attribution.run",
    "grow_group": "interp.circuits.groups",
    "load": "interp.loading",
    "patch": "interp.patching.run",
    "paths": "interp.patching.paths",
    "report": "interp.report.page",
    "score": "interp.heads.run",
    "sinks": "interp.sinks.run",
    "swap": "interp.swapping.run",
    "task": "interp.tasks.registry",
}
_FOLDERS = ("circuits", "hooks", "kernels")
_KERNELS = ("attention", "pattern")
_CALLABLE_FOLDERS = ("report", "sinks")

__all__ = [
    "Ablate",
    "AblationResult",
    "AttributionResult",
    "HeadId",
    "HeadScores",
    "HookedModel",
    "InterpError",
    "Knockout",
    "Patch",
    "PatchResult",
    "PathResult",
    "Redistribute",
    "Scale",
    "SinkEffects",
    "SinkReport",
    "Steer",
    "Swap",
    "SwapResult",
    "__version__",
    "ablate",
    "attention_transfer",
    "circuits",
    "dla",
    "grow_group",
    "hooks",
    "kernels",
    "load",
    "patch",
    "paths",
    "report",
    "score",
    "sinks",
    "swap",
    "task",
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
