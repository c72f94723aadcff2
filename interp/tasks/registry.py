"""Tasks by name, found by looking into this folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, get_type_hints

from interp.kernels.errors import InterpError, suggest
from interp.tasks.base import Task


@cache
def list_tasks() -> dict[str, type[Task]]:
    """Task classes by name, in alphabetical order."""
    modules = [import_module(f"interp.tasks.{found.name}") for found in iter_modules([str(Path(__file__).parent)])]
    things = [thing for module in modules for thing in vars(module).values() if isinstance(thing, type)]
    found = {thing.name: thing for thing in things if issubclass(thing, Task) and not isabstract(thing)}
    return dict(sorted(found.items()))


def task(name: str, n: int | None = None, seed: int = 0, **options: Any) -> Task:
    """The task of this name.

    Args:
        name: see `list_tasks`.
        n: number of questions; None takes the task's own default (64, or all rows of a file).
        seed: of everything that is drawn.
        options: fields of the task's class.

    Raises:
        InterpError: E201 no such task, option or option value; E205 a value of the wrong type.
    """
    known = list_tasks()
    if name not in known:
        raise InterpError("E201", f"no task {name!r}", fix=suggest(name, known))
    chosen = known[name]
    for option in options:
        if option not in chosen.option_names():
            fix = suggest(option, chosen.option_names())
            raise InterpError("E201", f"task {name} has no option {option!r}", fix=fix)
    given = {"seed": seed, **options} if n is None else {"n": n, "seed": seed, **options}
    check_types(chosen, given)
    return chosen(**given)


def check_types(chosen: type[Task], given: Mapping[str, Any]) -> None:
    """Raise E205 at a value that is not of its option's type; True and False are no numbers."""
    hints = get_type_hints(chosen)
    for option, value in given.items():
        hint = hints[option]
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            expected = getattr(hint, "__name__", str(hint))
            raise InterpError("E205", f"{option} is {value!r}; {expected} expected", where=f"task {chosen.name}")
