"""From command-line options to the task that is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.examples import Drop
    from interp.tasks.base import Task

Model = Annotated[str, typer.Option("--model", "-M", help="Bundled name, folder of save_pretrained, or hub id.")]
TaskName = Annotated[str | None, typer.Option("--task", "-t", help="Name of a task; `interp tasks` lists them.")]
TaskArgs = Annotated[str, typer.Option("--task-args", metavar="K=V,...", help="Options of the task.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", help="JSONL, CSV or TSV file of prompts.")]
Number = Annotated[int | None, typer.Option("--n", min=1, help="Number of prompts that the task draws.")]
Limit = Annotated[int | None, typer.Option("--limit", "-L", min=1, help="Use the first prompts only.")]
SkipBadLines = Annotated[bool, typer.Option("--skip-bad-lines", help="Leave bad lines out, into FILE.bad.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut prompts that are too long, instead of refusing.")]
FirstToken = Annotated[bool, typer.Option("--first-token", help="Use the first token of longer answers.")]


def questions(
    name: str | None, args: str, path: Path | None, n: int | None, limit: int | None, skip_bad_lines: bool, seed: int
) -> Task:
    """The task of --task, or the file of --prompts.

    Raises:
        InterpError: E205 both or neither, or an option that the other one has; E201 unknown task or option.
    """
    if (name is None) == (path is None):
        what = "neither --task nor --prompts" if name is None else "--task and --prompts together"
        raise InterpError("E205", what, fix="choose one: --task ioi, or --prompts my.jsonl")
    asked = (
        _from_file(path, args, n, skip_bad_lines)
        if path is not None
        else _by_name(str(name), args, n, skip_bad_lines, seed)
    )
    return asked if limit is None else replace(asked, n=min(limit, asked.n))


def _from_file(path: Path, args: str, n: int | None, skip_bad_lines: bool) -> Task:
    from interp.tasks.file import file_task

    if args or n is not None:
        raise InterpError(
            "E205",
            f"{'--task-args' if args else '--n'} with --prompts",
            fix="a file takes --limit and --skip-bad-lines",
        )
    return file_task(path, skip_bad_lines=skip_bad_lines)


def _by_name(name: str, args: str, n: int | None, skip_bad_lines: bool, seed: int) -> Task:
    from interp.tasks.registry import list_tasks, task

    if skip_bad_lines:
        raise InterpError("E205", "--skip-bad-lines with --task", fix="it is for --prompts")
    hints = get_type_hints(list_tasks()[name]) if name in list_tasks() else {}
    return task(name, n=n, seed=seed, **{option: _typed(text, hints.get(option)) for option, text in _pairs(args)})


def _pairs(args: str) -> list[tuple[str, str]]:
    """`k=v,k=v` taken apart."""
    parts = [part.partition("=") for part in args.split(",") if part.strip()]
    for option, equals, _ in parts:
        if not equals:
            raise InterpError(
                "E205", f"{option!r} in --task-args has no value", fix="write --task-args name=value,name=value"
            )
    return [(option.strip(), text.strip()) for option, _, text in parts]


def _typed(text: str, hint: Any) -> Any:
    """The text as the number or truth value that the option takes; other text stays text, for the task to judge."""
    if hint in (int, int | None) and text.lstrip("-").isdecimal():
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text) if hint is bool else text


def count_drops(drops: Iterable[Drop]) -> dict[str, int]:
    """Number of dropped prompts for each error code."""
    return dict(sorted(Counter(f"INTERP-{drop.code}" for drop in drops).items()))
