"""`interp head`: every verdict on one head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.folders import default_folder
from interp.cli.lists import numbers, words
from interp.cli.questions import BatchSize, NControls, Out, Overwrite
from interp.cli.results import finish
from interp.cli.score import Scored, chosen_task
from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.passport.result import Passport

Label = Annotated[str, typer.Argument(help="A head: L3H1.", show_default=False)]
Scorers = Annotated[str, typer.Option("--scorers", "-s", help="'all fitting', all, or names: induction,retrieval,...")]
Operators = Annotated[str, typer.Option("--operators", help="Of ablation: zero,mean,...")]
Seeds = Annotated[
    str | None, typer.Option("--seeds", help="Of the prompts, the main one first; default: 3 from --seed.")
]
Template = Annotated[
    list[str], typer.Option("--template", metavar="K=V,...", help="Options of the task to vary. Repeatable.")
]
Dormancy = Annotated[bool, typer.Option("--dormancy/--no-dormancy", help="Take heads away, to know which rest.")]
N_SEEDS = 3


def head(
    terminal: Terminal,
    label: Label,
    asked: Scored,
    scorers: Scorers = "all fitting",
    operators: Operators = "zero,mean,resample,uniform",
    seeds: Seeds = None,
    template: Template = [],  # noqa: B006  # typer's default of a repeatable option
    controls: NControls = 4,
    dormancy: Dormancy = True,
    batch_size: BatchSize = 32,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Gather every verdict on one head, what contradicts what, and how stable it is."""
    from interp.circuits.runfolder import RunFolder
    from interp.hooks.names import parse_head
    from interp.passport.families import EVERY, FITTING

    if not asked.model:
        raise InterpError("E205", "no --model", fix="interp head L3H1 --model mini --task ioi")
    name = parse_head(label).label
    task = chosen_task(asked, terminal.seed)
    variations = [variation(asked, text, terminal.seed) for text in template] or None
    prompts = asked.prompts.stem if asked.prompts else asked.task or "default"
    folder = RunFolder.check(out or default_folder(asked.model, prompts, name), overwrite=overwrite)

    from interp.passport.run import passport as run

    with terminal.following("parts") as progress:
        found = run(
            asked.open(), name, task, scorers=scorers if scorers in (FITTING, EVERY) else words(scorers),
            operators=words(operators), seeds=seeds_of(seeds, terminal.seed), templates=variations, n=asked.n,
            n_controls=controls, dormancy=dormancy, batch_size=batch_size, truncate=asked.truncate,
            command=terminal.command, progress=progress,
        )  # fmt: skip
    conclude(terminal, found, folder, overwrite=overwrite)


def conclude(terminal: Terminal, found: Passport, folder: Path, *, overwrite: bool) -> None:
    """Save a passport, and say what it says."""
    data = {
        "labels": [label.name for label in found.labels],
        "flags": [{"kind": flag.kind, "says": flag.says} for flag in found.flags],
        "verdicts": [_verdict(found, one.question) for one in found.main], "left_out": dict(found.left_out),
    }  # fmt: skip
    finish(terminal, found, folder, found.table(), data, overwrite=overwrite)


def _verdict(found: Passport, question: str) -> dict[str, Any]:
    one, held = found.reading(question), found.stability(question)
    shown = {key: value for key, value in one.to_dict().items() if key != "prompts"}
    return {**shown, "n": one.n, "claimed_in": held.claimed, "asked_in": len(held.settings)}


def variation(asked: Scored, text: str, seed: int) -> dict[str, Any]:
    """`template=4,split=test` as options of the task, of the types that it takes.

    Raises:
        InterpError: E205 without --task; E201 an option that it does not have.
    """
    if asked.task is None:
        raise InterpError("E205", "--template without --task", fix="name the task: --task ioi")
    args = ",".join(part for part in (asked.task_args, text) if part)
    varied = replace(asked, task_args=args).make_task(seed)
    return {name: varied.options[name] for name in (part.partition("=")[0].strip() for part in words(text))}


def seeds_of(text: str | None, seed: int) -> tuple[int, ...]:
    """`0,1,2` as numbers; by default that of --seed and the two after it (E205)."""
    if text is None:
        return tuple(range(seed, seed + N_SEEDS))
    return numbers(text, "--seeds")
