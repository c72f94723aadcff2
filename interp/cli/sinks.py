"""`interp sinks`: where a model rests its attention, what that is for, and whether turning it down helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.lists import numbers
from interp.cli.questions import Asked, MetricName, Out, Overwrite
from interp.cli.results import conclude, finish
from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from interp.sinks.result import SinkReport

SHOWN = 12
QUESTIONS = ("report", "purpose", "calibration")

Question = Annotated[str, typer.Option("--question", help="report, purpose (what it is for), or calibration (ACT).")]
Role = Annotated[
    list[str], typer.Option("--role", metavar="NAME=TOKEN,...", help="Tokens that are a role. Repeatable.")
]
Lengths = Annotated[str | None, typer.Option("--lengths", help="Of joined prompts: 64,256; default: 2x and 8x.")]
Eps = Annotated[float, typer.Option("--eps", help="Mean attention that makes a sink.")]
Rule = Annotated[str, typer.Option("--rule", help="Of massive activations: robust, or absolute.")]
Dormancy = Annotated[bool, typer.Option("--dormancy/--no-dormancy", help="Take heads away, to know the cause.")]
Controls = Annotated[int | None, typer.Option("--controls", min=0, help="Matched heads, or random edits.")]
Batch = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Prompts in one forward.")]


def sinks(
    terminal: Terminal,
    asked: Asked,
    question: Question = "report",
    role: Role = [],  # noqa: B006  # typer's default of a repeatable option
    lengths: Lengths = None,
    eps: Eps = 0.3,
    rule: Rule = "robust",
    dormancy: Dormancy = True,
    metric: MetricName = None,
    controls: Controls = None,
    batch_size: Batch = 16,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Find attention sinks by four criteria, and say what they are for."""
    if question not in QUESTIONS:
        raise InterpError("E201", f"no question {question!r}", fix=suggest(question, QUESTIONS))
    task, roles = asked.make_task(terminal.seed), token_roles(role)
    at = None if lengths is None else numbers(lengths, "--lengths")
    folder = asked.folder(out, f"sinks-{question}", overwrite=overwrite)
    given: dict[str, Any] = {"truncate": asked.truncate, "command": terminal.command}
    counted: dict[str, Any] = {} if controls is None else {"n_controls": controls}
    model = asked.open()
    with terminal.following("heads" if question == "report" else "forwards") as progress:
        if question == "report":
            from interp.sinks.run import sinks as run

            report = run(
                model, task, token_roles=roles, lengths=at, eps=eps, rule=rule, dormancy=dormancy, batch_size=batch_size,
                seed=terminal.seed, **counted, **given, progress=progress,
            )  # fmt: skip
        elif question == "purpose":
            from interp.sinks.purpose import purpose
            from interp.sinks.settings import Settings

            settings = Settings(eps=eps, rule=rule, batch_size=batch_size, seed=terminal.seed)
            effects = purpose(model, task, metric=metric, settings=settings, **counted, **given, progress=progress)
        else:
            from interp.sinks.calibration import calibrate

            effects = calibrate(
                model, task, metric=metric, batch_size=batch_size, seed=terminal.seed, **counted, **given,
                progress=progress,
            )  # fmt: skip
    if question == "report":
        say(terminal, report, folder, overwrite=overwrite)
    else:
        conclude(terminal, effects, folder, overwrite=overwrite)


def say(terminal: Terminal, report: SinkReport, folder: Path, *, overwrite: bool) -> None:
    """Save a report, and say what it says."""
    rows = [dict(zip(report.columns, row, strict=True)) for row in report.full_table()]
    finish(
        terminal, report, folder, report.table(SHOWN), {"rows": rows, "kept": len(report.prompts)},
        prompts=f"{len(report.prompts)} kept", overwrite=overwrite,
    )  # fmt: skip


def token_roles(given: list[str]) -> dict[str, list[str]]:
    """`trigger=a,b` taken apart (E205)."""
    found = {}
    for text in given:
        name, equals, tokens = text.partition("=")
        if not equals or not name.strip() or not tokens.strip():
            raise InterpError("E205", f"--role {text} names no tokens", fix="write --role trigger=a,b")
        found[name.strip()] = [token for token in tokens.split(",") if token]
    return found
