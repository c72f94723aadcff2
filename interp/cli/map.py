"""`interp map`: how much each token of a prompt counts for the answer, and which map to believe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.lists import words
from interp.cli.questions import Asked, MetricName, Out, Overwrite
from interp.cli.results import finish
from interp.cli.terminal import Terminal

if TYPE_CHECKING:
    from interp.maps.result import TokenMaps

Methods = Annotated[str, typer.Option("--methods", help="Names: rollout,atman,...; all takes every one.")]
Ways = Annotated[str, typer.Option("--ways", help="Of taking tokens away: knockout,neutral; the first makes claims.")]
Steps = Annotated[int, typer.Option("--steps", min=2, help="Points of a deletion or insertion curve.")]
Neutral = Annotated[str | None, typer.Option("--neutral", help="Token that stands for none.")]
Deceive = Annotated[int, typer.Option("--deceive", min=0, help="Prompts on which attention is moved.")]
Batch = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Prompts in one forward.")]


def map(  # noqa: A001  # a verb is called as its function
    terminal: Terminal,
    asked: Asked,
    methods: Methods = "all",
    ways: Ways = "knockout,neutral",
    steps: Steps = 8,
    neutral: Neutral = None,
    deceive: Deceive = 32,
    metric: MetricName = None,
    batch_size: Batch = 16,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Map how much each token counts, and hold the maps against what the model does without it."""
    task = asked.make_task(terminal.seed)
    folder = asked.folder(out, "map", overwrite=overwrite)
    names = "all" if methods.strip() == "all" else words(methods)

    from interp.maps.run import token_maps

    with terminal.following("prompts") as progress:
        found = token_maps(
            asked.open(), task, names, metric=metric, truncate=asked.truncate, ways=words(ways), steps=steps,
            neutral=neutral, deceive=deceive, batch_size=batch_size, seed=terminal.seed, command=terminal.command,
            progress=progress,
        )  # fmt: skip
    say(terminal, found, folder, overwrite=overwrite)


def say(terminal: Terminal, found: TokenMaps, folder: Path, *, overwrite: bool) -> None:
    """Save the maps, and say what they say."""
    table = found.full_table()
    rows = [dict(zip(found.columns, row, strict=True)) for row in table]
    finish(
        terminal, found, folder, table, {"rows": rows, "kept": len(found.prompts)},
        prompts=f"{len(found.prompts)} kept", overwrite=overwrite,
    )  # fmt: skip
