"""Toys by name, found by looking into this folder, and the check of what they claim."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from time import perf_counter

from interp.kernels.errors import InterpError, suggest
from interp.zoo.toys.base import Toy
from interp.zoo.toys.report import ToyReport


@cache
def list_toys() -> dict[str, type[Toy]]:
    """Toy classes by name, in alphabetical order."""
    modules = [import_module(f"interp.zoo.toys.{found.name}") for found in iter_modules([str(Path(__file__).parent)])]
    things = [thing for module in modules for thing in vars(module).values() if isinstance(thing, type)]
    found = {thing.name: thing for thing in things if issubclass(thing, Toy) and thing is not Toy}
    return dict(sorted(found.items()))


def toy(name: str) -> Toy:
    """The toy of this name, with the numbers its bounds were set for.

    Raises:
        InterpError: E201 no such toy.
    """
    known = list_toys()
    if name not in known:
        raise InterpError("E201", f"no toy {name!r}", fix=suggest(name, known))
    return known[name]()


def check(name: str, seeds: Sequence[int] | None = None) -> ToyReport:
    """Run a toy once a seed and hold every finding against its bound.

    Args:
        name: see `list_toys`.
        seeds: whole numbers, none twice; None takes the toy's own.

    Raises:
        InterpError: E201 no such toy; E205 no seed, or one seed twice.
    """
    return check_toy(toy(name), seeds)


def check_toy(chosen: Toy, seeds: Sequence[int] | None = None) -> ToyReport:
    """`check` of a toy at hand, whose fields may differ from the defaults."""
    wanted = tuple(chosen.seeds if seeds is None else seeds)
    if not wanted or len(set(wanted)) < len(wanted):
        raise InterpError("E205", f"seeds are {list(wanted)}; at least one, none twice", where=f"toy {chosen.name}")
    start = perf_counter()
    runs = tuple(tuple(chosen.run(seed)) for seed in wanted)
    return ToyReport(name=chosen.name, seeds=wanted, runs=runs, seconds=perf_counter() - start)
