"""Modules that share their name with the one function they hold: calling the module calls the function."""

from __future__ import annotations

from sys import modules
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """`interp.kernels.attention(...)` means `interp.kernels.attention.attention(...)`.

    Importing a sub-module binds its name in the package, over any function; so the module itself has to answer.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return vars(self)[self.__name__.rpartition(".")[2]](*args, **options)


def make_callable(name: str) -> None:
    modules[name].__class__ = CallableModule
