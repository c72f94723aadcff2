"""`interp ablate`: what each head is worth to a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import results
from interp.cli.questions import Asked, BatchSize, Memory, MetricName, NControls, Out, Overwrite
from interp.cli.terminal import Terminal
from interp.cli.verb import INTERRUPTED, stop

if TYPE_CHECKING:
    from interp.ablation.result import AblationResult

Heads = Annotated[str, typer.Option("--heads", "-H", help="all, or a list: L0H1,3.*")]
Operator = Annotated[str, typer.Option("--operator", help="zero, mean, positional-mean, resample, uniform, ...")]
Positions = Annotated[str, typer.Option("--positions", help="all, end, or a role of the task.")]
Engine = Annotated[str, typer.Option("--engine", help="rerun what can change, or full forwards: the same numbers.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="inline, process or ray: who computes.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes or Ray actors.")]
Shards = Annotated[int | None, typer.Option("--shards", min=1, help="Pieces; default: at most 5 seconds each.")]
Address = Annotated[str | None, typer.Option("--address", help="Of a running Ray cluster.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Of torch, in each worker.")]


def ablate(
    terminal: Terminal,
    asked: Asked,
    heads: Heads = "all",
    operator: Operator = "mean",
    metric: MetricName = None,
    positions: Positions = "all",
    controls: NControls = 4,
    batch_size: BatchSize = 32,
    engine: Engine = "rerun",
    memory: Memory = 1024,
    out: Out = None,
    overwrite: Overwrite = False,
    executor: ExecutorName = "inline",
    workers: Workers = 1,
    shards: Shards = None,
    address: Address = None,
    threads: Threads = 1,
) -> None:
    """Ablate heads one by one, and test what a metric loses."""
    task = asked.make_task(terminal.seed)
    folder = asked.folder(out, operator, overwrite=overwrite)

    from interp.ablation.run import ablate as run

    model = asked.open()
    with resume_line(terminal, folder), terminal.following("edits") as progress:
        result = run(
            model,
            task,
            heads=heads,
            operator=operator,
            metric=metric,
            positions=None if positions == "all" else positions,
            n_controls=controls,
            batch_size=batch_size,
            engine=engine,
            memory=memory,
            seed=terminal.seed,
            **asked.cutting(),
            command=terminal.command,
            progress=progress,
            out=folder,
            overwrite=overwrite,
            executor=executor,
            workers=workers,
            shards=shards,
            address=address,
            threads=threads,
        )
    conclude(terminal, result, folder)


@contextmanager
def resume_line(terminal: Terminal, folder: Path) -> Iterator[None]:
    """Where a run is interrupted, say how to go on with it."""
    try:
        yield
    except KeyboardInterrupt:
        from interp.circuits.runfolder import PLAN
        from interp.sweeps.run import resume_line

        again = resume_line(folder) if (folder / PLAN).is_file() else terminal.command
        stop(terminal, INTERRUPTED, f"interrupted; to go on: {again}", [])


def conclude(terminal: Terminal, result: AblationResult, folder: Path) -> None:
    """Say what a stored run says, and where it is."""
    from interp.sweeps.text import cost_lines

    results.show(terminal, result)
    for line in cost_lines(result.sweep):
        terminal.say(f"sweep:  {line}")
    terminal.say(f"run:    {folder}")
    terminal.say(f"report: interp report {folder}")
    results.check_finite(result, folder)
    terminal.emit(as_data(result, folder))


def as_data(result: AblationResult, folder: Path) -> dict[str, Any]:
    """The run for machines; every head is in it."""
    return {
        **results.as_data(result, folder),
        "report_command": f"interp report {folder}",
        "heads": result.summary_frame().to_dict("records"),
        "sweep": dict(result.sweep),
    }
