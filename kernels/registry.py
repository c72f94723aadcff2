"""Classes found by scanning a package: a new file in `variants/` or `statistics/` is all that a new one takes."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from inspect import isabstract
from pkgutil import walk_packages
from typing import Any

from interp.kernels.errors import InterpError, suggest


@cache
def found(package: str, base: type[Any]) -> dict[str, type[Any]]:
    """Name to class, for every concrete subclass of `base` that has a `name` and lives in a module of `package` or of a folder in it."""
    home = import_module(package)
    classes: dict[str, type[Any]] = {}
    for module in walk_packages(home.__path__, f"{package}."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, base) and "name" in vars(value) and not isabstract(value):
                name = vars(value)["name"]
                assert classes.setdefault(name, value) is value, f"two classes are called {name!r}"
    return dict(sorted(classes.items()))


def made(kind: str, package: str, base: type[Any], given: Any) -> Any:
    """A record as it is, or the one of this name with its default parameters.

    Raises:
        InterpError: E201 unknown name; E205 a name whose record needs parameters.
    """
    if isinstance(given, base):
        return given
    classes = found(package, base)  # type: ignore[arg-type]  # a class with class variables is hashable all the same
    if given not in classes:
        raise InterpError("E201", f"no {kind} is called {given!r}", fix=suggest(str(given), classes))
    try:
        return classes[given]()
    except TypeError as error:
        raise InterpError(
            "E205",
            f"{kind} {given!r} needs parameters",
            where=str(error).split("() ")[-1],
            fix=f"hand over {classes[given].__name__}(...) from {package}",
        ) from error
