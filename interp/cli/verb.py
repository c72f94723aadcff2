"""What all verbs share: their common options, the command that repeats them, and what happens to an error."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from errno import EPIPE
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_type_hints

import typer

from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

INTERRUPTED = 130
UNEXPECTED = 1

SEED = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn.")]
COMMON: dict[str, tuple[Any, Any]] = {
    "json": (Annotated[bool, typer.Option("--json", help="One JSON document on stdout, text on stderr.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")], False),
    "no_progress": (Annotated[bool, typer.Option("--no-progress", help="No progress bar or lines.")], False),
    "debug": (Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")], False),
    "seed": (SEED, 0),
    "offline": (Annotated[bool, typer.Option("--offline", help="Never use the network.")], False),
}


def verb(function: Callable[..., None], group: str = "") -> Callable[..., None]:
    """A command: the function with the common options, which reach it as its first argument, a `Terminal`.

    Args:
        function: named as the verb. A parameter that is a dataclass stands for one option a field.
        group: what is typed before the verb, where it belongs to a group of them.
    """
    given = list(signature(function, eval_str=True).parameters.values())[1:]
    groups: dict[str, Any] = {one.name: one.annotation for one in given if is_dataclass(one.annotation)}
    own = [part for one in given for part in (options(one.annotation) if one.name in groups else [one])]
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, (hint, default) in COMMON.items()
    ]
    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own] + shared

    @wraps(function)
    def command(**arguments: Any) -> None:
        typed = command_line(
            f"{group} {function.__name__}".split(), [*own, shared[list(COMMON).index("seed")]], arguments
        )
        common = {name: arguments.pop(name) for name in COMMON}
        if common.pop("offline"):
            os.environ["HF_HUB_OFFLINE"] = "1"
        terminal = Terminal(progress=not common.pop("no_progress"), command=typed, **common)
        for name, kind in groups.items():
            arguments[name] = kind(**{one.name: arguments.pop(one.name) for one in fields(kind)})
        with explained(terminal):
            function(terminal, **arguments)

    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def options(group: type) -> Iterator[Parameter]:
    """The fields of a dataclass as parameters."""
    hints = get_type_hints(group, include_extras=True)
    for one in fields(group):
        default = Parameter.empty if one.default is MISSING else one.default
        yield Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[one.name])


def command_line(verb: list[str], parameters: Iterable[Parameter], arguments: Mapping[str, Any]) -> str:
    """What to type to get these arguments; defaults are left out."""
    words = ["interp", *verb]
    for parameter in parameters:
        value = arguments[parameter.name]
        if value == parameter.default or value is None:
            continue
        option = get_args(parameter.annotation)[1]
        flag = [option.default] if isinstance(option.default, str) else []  # the first name of an annotated option
        words += flag if value is True else flag + [str(one) for one in (value if isinstance(value, list) else [value])]
    return shlex.join(words)


@contextmanager
def explained(terminal: Terminal) -> Iterator[None]:
    """Turn an exception into its text on stderr and its exit code."""
    try:
        yield
    except InterpError as error:
        stop(terminal, error.exit_code, str(error), [described(one) for one in getattr(error, "errors", (error,))])
    except KeyboardInterrupt:
        stop(terminal, INTERRUPTED, f"interrupted; to start again: {terminal.command}", [])
    except Exception as error:
        if isinstance(error, typer.Exit) or (isinstance(error, OSError) and error.errno == EPIPE):
            raise
        what = f"unexpected {type(error).__name__}: {error}"
        hint = "" if terminal.debug else f"\n  fix:   report it with the traceback: {terminal.command} --debug"
        stop(terminal, UNEXPECTED, what + hint, [{"code": None, "what": what, "where": "", "fix": ""}])


def stop(terminal: Terminal, exit_code: int, text: str, errors: list[dict[str, Any]]) -> None:
    """Leave with this exit code, saying why on stderr and, with --json, on stdout too."""
    if terminal.debug:
        traceback.print_exc(file=sys.stderr)
    terminal.complain(text)
    terminal.emit({"exit_code": exit_code, "errors": errors})
    raise typer.Exit(exit_code)


def described(error: InterpError) -> dict[str, Any]:
    """An error as data."""
    return {"code": f"INTERP-{error.code}", "what": error.what, "where": error.where, "fix": error.fix}
