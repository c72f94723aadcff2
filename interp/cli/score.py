"""`interp score`: what every head scores as a head of some kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.ablate import Heads
from interp.cli.folders import default_folder
from interp.cli.lists import words
from interp.cli.questions import Asked, BatchSize, Out, Overwrite
from interp.cli.results import as_data, show
from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.heads.result import HeadScores
    from interp.tasks.base import Task

Model = Annotated[str, typer.Option("--model", "-M", help="Bundled name, folder of save_pretrained, or hub id.")]
Scorers = Annotated[str, typer.Option("--scorer", "-s", help="Kinds of heads: induction,previous-token,...")]
Listing = Annotated[bool, typer.Option("--list", help="List the scorers, with their sources, and stop.")]
Sinks = Annotated[
    str | None, typer.Option("--sinks", help="Of attention to targets: raw, excluded, or value (weighted by output).")
]


@dataclass(frozen=True)
class Scored(Asked):
    """Options of `score`: a listing needs no model, and scorers know a task that suits them."""

    model: Model = ""


def score(
    terminal: Terminal,
    asked: Scored,
    scorer: Scorers = "",
    sinks: Sinks = None,
    heads: Heads = "all",
    batch_size: BatchSize = 32,
    out: Out = None,
    overwrite: Overwrite = False,
    listing: Listing = False,
) -> None:
    """Score every head as a head of some kind, beside what chance gives."""
    if listing:
        return show_scorers(terminal)
    names = list(words(scorer))
    if not names or not asked.model:
        what = "no --scorer" if not names else "no --model"
        raise InterpError("E205", what, fix="interp score --model mini --scorer induction; --list names the scorers")
    folders = make_folders(asked, names, out, overwrite=overwrite)
    task = chosen_task(asked, terminal.seed)

    from interp.heads.run import score as run

    options: dict[str, Any] = {} if sinks is None else {"sinks": sinks}
    found = run(
        asked.open(), names, task, heads=heads, n=asked.n, batch_size=batch_size, seed=terminal.seed,
        truncate=asked.truncate, command=terminal.command, **options,
    )  # fmt: skip
    conclude(terminal, found, folders, overwrite=overwrite)


def chosen_task(asked: Scored, seed: int) -> Task | None:
    """The task or file that was named; None leaves it to the scorers.

    Raises:
        InterpError: E205, options of a task without a task.
    """
    if asked.task is not None or asked.prompts is not None:
        return asked.make_task(seed)
    given = {"--task-args": asked.task_args, "--limit": asked.limit, "--skip-bad-lines": asked.skip_bad_lines}
    extra = [name for name, value in given.items() if value]
    if extra:
        raise InterpError("E205", f"{extra[0]} without --task or --prompts", fix="name the task: --task induction")
    return None


def make_folders(asked: Scored, names: list[str], out: Path | None, *, overwrite: bool) -> dict[str, Path]:
    """Where each scorer's run goes: --out, and a folder in it for each of several.

    Raises:
        InterpError: E201 unknown scorer; E205 one twice; E204 the folder holds something else.
    """
    from interp.circuits.runfolder import RunFolder
    from interp.heads import scorer as scorer_of

    if len(set(names)) < len(names):
        raise InterpError("E205", "one scorer twice", where="--scorer", fix="name each once")
    for name in names:
        scorer_of(name)
    prompts = asked.prompts.stem if asked.prompts else asked.task or "default"
    base = out or default_folder(asked.model, prompts, "score")
    places = {name: base if len(names) == 1 and out else base / name for name in names}
    return {name: RunFolder.check(place, overwrite=overwrite) for name, place in places.items()}


def conclude(terminal: Terminal, found: dict[str, HeadScores], folders: dict[str, Path], *, overwrite: bool) -> None:
    """Save every result, and say what it says."""
    for name, result in found.items():
        result.save(folders[name], overwrite=overwrite)
        show(terminal, result)
        terminal.say(f"run:    {folders[name]}")
    runs = {name: {**as_data(result, folders[name]), "rows": _rows(result)} for name, result in found.items()}
    terminal.emit({"exit_code": 0, "scores": runs})


def _rows(result: HeadScores) -> list[dict[str, Any]]:
    means = result.mean.tolist()
    return [{**result.row(index)._asdict(), "score": means[index]} for index in range(len(result.heads))]


def show_scorers(terminal: Terminal) -> None:
    """One line a scorer: what a high score says, and where it comes from."""
    from interp.heads import scorers

    known = scorers()
    for name, kind in known.items():
        terminal.say(f"{name}: {kind.says}  [{kind.source}]")
    terminal.emit(
        {"exit_code": 0, "scorers": {name: {"says": k.says, "source": k.source} for name, k in known.items()}}
    )
