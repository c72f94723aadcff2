"""Tasks by name, found by looking into this folder."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from interp.kernels.errors import InterpError, suggest
from interp.tasks.base import Task


@cache
def list_tasks() -> dict[str, type[Task]]:
    """Task classes by name, in alphabetical order."""
    modules = [import_module(f"interp.tasks.{found.name}") for found in iter_modules([str(Path(__file__).parent)])]
    things = [thing for module in modules for thing in vars(module).values()]
    classes = {thing for thing in things if isinstance(thing, type) and issubclass(thing, Task) and hasattr(thing, "name")}
    return {found.name: found for found in sorted(classes, key=lambda found: found.name)}


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
            raise InterpError("E201", f"task {name} has no option {option!r}", fix=suggest(option, chosen.option_names()))
    return chosen(seed=seed, **options) if n is None else chosen(n=n, seed=seed, **options)
