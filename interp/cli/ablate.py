"""`interp ablate`: what each head is worth to a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.folders import default_folder
from interp.cli.questions import (
    FirstToken,
    Limit,
    Model,
    Number,
    Prompts,
    SkipBadLines,
    TaskArgs,
    TaskName,
    Truncate,
    count_drops,
    questions,
)
from interp.cli.terminal import Terminal
from interp.cli.verb import INTERRUPTED, stop
from interp.kernels.errors import CODES, InterpError

if TYPE_CHECKING:
    from interp.ablation.result import AblationResult

SHOWN_HEADS = 10
NOT_FINITE_SHARE = 0.01
"""Above this share of values that are not finite, a run counts as partial."""

Heads = Annotated[str, typer.Option("--heads", "-H", help="all, or a list: L0H1,3.*")]
Operator = Annotated[str, typer.Option("--operator", help="zero, mean, positional-mean, resample, uniform, ...")]
MetricName = Annotated[str | None, typer.Option("--metric", help="Instead of the task's own.")]
Positions = Annotated[str, typer.Option("--positions", help="all, end, or a role of the task.")]
NControls = Annotated[int, typer.Option("--controls", min=0, help="Matched control heads for each head.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Prompts in one forward.")]
Engine = Annotated[str, typer.Option("--engine", help="rerun what can change, or full forwards: the same numbers.")]
Memory = Annotated[int, typer.Option("--memory", min=1, help="MiB that a run of the engine may hold.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, float16, float64.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
ExecutorName = Annotated[str, typer.Option("--executor", help="inline, process or ray: who computes.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes or Ray actors.")]
Shards = Annotated[int | None, typer.Option("--shards", min=1, help="Pieces; default: at most 5 seconds each.")]
Address = Annotated[str | None, typer.Option("--address", help="Of a running Ray cluster.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Of torch, in each worker.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")]


def ablate(
    terminal: Terminal,
    model: Model,
    task: TaskName = None,
    task_args: TaskArgs = "",
    prompts: Prompts = None,
    n: Number = None,
    limit: Limit = None,
    heads: Heads = "all",
    operator: Operator = "mean",
    metric: MetricName = None,
    positions: Positions = "all",
    controls: NControls = 4,
    batch_size: BatchSize = 32,
    engine: Engine = "rerun",
    memory: Memory = 1024,
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")] = False,
    executor: ExecutorName = "inline",
    workers: Workers = 1,
    shards: Shards = None,
    address: Address = None,
    threads: Threads = 1,
    truncate: Truncate = False,
    first_token: FirstToken = False,
    skip_bad_lines: SkipBadLines = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Ablate heads one by one, and test what a metric loses."""
    asked = questions(task, task_args, prompts, n, limit, skip_bad_lines, terminal.seed)
    folder = out or default_folder(model, prompts.stem if prompts else asked.name, operator)
    from interp.circuits.runfolder import RunFolder

    RunFolder.check(folder, overwrite=overwrite)

    from interp.ablation.run import ablate as run
    from interp.loading import load

    opened = load(model, dtype=dtype, device=device, allow_pickle=allow_pickle)
    with resume_line(terminal, folder), terminal.following("edits") as progress:
        result = run(
            opened,
            asked,
            heads=heads,
            operator=operator,
            metric=metric,
            positions=None if positions == "all" else positions,
            n_controls=controls,
            batch_size=batch_size,
            engine=engine,
            memory=memory,
            seed=terminal.seed,
            truncate=truncate,
            first_token=first_token,
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
    show(terminal, result, folder)
    check_finite(result, folder)
    terminal.emit(as_data(result, folder))


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


def show(terminal: Terminal, result: AblationResult, folder: Path) -> None:
    """Headline, top heads, what was left out, what to know, and where the run is."""
    from interp.ablation.text import COLUMNS, cells
    from interp.sweeps.text import cost_lines

    terminal.say(result.headline())
    terminal.table(COLUMNS, [cells(row) for row in result.top(SHOWN_HEADS)])
    terminal.say(f"prompts: {len(result.prompts)} kept")
    for code, count in count_drops(result.drops).items():
        terminal.say(f"         {count} dropped, {code}: {CODES[code.removeprefix('INTERP-')]}")
    for warning in result.run.warnings:
        terminal.say(f"note: {warning}")
    for line in cost_lines(result.sweep):
        terminal.say(f"sweep:  {line}")
    terminal.say(f"run:    {folder}")
    terminal.say(f"report: interp report {folder}")


def check_finite(result: AblationResult, folder: Path) -> None:
    """Raise E501 where so many values are not finite that the run only tells part of the story."""
    bad, total = result.n_not_finite, result.values.size
    if bad > NOT_FINITE_SHARE * total:
        where = next((warning for warning in result.run.warnings if "not finite" in warning), "")
        raise InterpError(
            "E501",
            f"{bad} of {total} values are not finite",
            where=where,
            fix=f"try --dtype float32; what there is was kept in {folder}",
        )


def as_data(result: AblationResult, folder: Path) -> dict[str, Any]:
    """The run for machines; every head is in it."""
    return {
        "exit_code": 0,
        "headline": result.headline(),
        "folder": str(folder),
        "report_command": f"interp report {folder}",
        "run_id": result.run_id,
        "heads": result.summary_frame().to_dict("records"),
        "top": [row.label for row in result.top(SHOWN_HEADS)],
        "kept": len(result.prompts),
        "dropped": count_drops(result.drops),
        "run": result.run.to_dict(),
        "sweep": dict(result.sweep),
    }
