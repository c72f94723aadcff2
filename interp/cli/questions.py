"""From command-line options to the task that is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from interp.cli.folders import default_folder
from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.examples import Drop
    from interp.hooks.model import HookedModel
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
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, float16, float64.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")]
MetricName = Annotated[str | None, typer.Option("--metric", help="Instead of the task's own.")]
NControls = Annotated[int, typer.Option("--controls", min=0, help="Matched control heads for each head.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Prompts in one forward.")]
Memory = Annotated[int, typer.Option("--memory", min=1, help="MiB that a run of the engine may hold.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")]


@dataclass(frozen=True)
class Questions:
    """Options of every verb that asks prompts of a model."""

    model: Model
    task: TaskName = None
    task_args: TaskArgs = ""
    prompts: Prompts = None
    n: Number = None
    limit: Limit = None
    truncate: Truncate = False
    first_token: FirstToken = False
    skip_bad_lines: SkipBadLines = False

    def make_task(self, seed: int) -> Task:
        """The task of --task, or the file of --prompts.

        Raises:
            InterpError: E205 both or neither, or an option that the other one has; E201 unknown task or option.
        """
        if (self.task is None) == (self.prompts is None):
            what = "neither --task nor --prompts" if self.task is None else "--task and --prompts together"
            raise InterpError("E205", what, fix="choose one: --task ioi, or --prompts my.jsonl")
        asked = (
            _from_file(self.prompts, self.task_args, self.n, self.skip_bad_lines)
            if self.prompts is not None
            else _by_name(str(self.task), self.task_args, self.n, self.skip_bad_lines, seed)
        )
        return asked if self.limit is None else replace(asked, n=min(self.limit, asked.n))

    def cutting(self) -> dict[str, bool]:
        """What may be done to prompts that do not fit, as methods take it."""
        return {"truncate": self.truncate, "first_token": self.first_token}


@dataclass(frozen=True)
class Asked(Questions):
    """The same, for verbs that run the model."""

    dtype: Dtype = None
    device: Device = None
    allow_pickle: AllowPickle = False

    def open(self) -> HookedModel:
        """The model."""
        from interp.loading import load

        return load(self.model, dtype=self.dtype, device=self.device, allow_pickle=self.allow_pickle)

    def folder(self, out: Path | None, method: str, *, overwrite: bool) -> Path:
        """Where the run goes: --out, or a name made of model, prompts and method.

        Raises:
            InterpError: E204 it holds something else.
        """
        from interp.circuits.runfolder import RunFolder

        prompts = self.prompts.stem if self.prompts else str(self.task)
        return RunFolder.check(out or default_folder(self.model, prompts, method), overwrite=overwrite)


@dataclass(frozen=True)
class Compared:
    """Options of verbs that measure parts of a model and hold them against controls."""

    metric: MetricName = None
    controls: NControls = 4
    batch_size: BatchSize = 32
    memory: Memory = 1024
    out: Out = None
    overwrite: Overwrite = False

    def given(self, terminal: Terminal, asked: Asked) -> dict[str, Any]:
        """What these verbs pass on alike."""
        return {
            "metric": self.metric, "n_controls": self.controls, "batch_size": self.batch_size, "memory": self.memory,
            "seed": terminal.seed, **asked.cutting(), "command": terminal.command,
        }  # fmt: skip


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
