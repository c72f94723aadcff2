"""The program `interp`: its verbs, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import interp
from interp.cli.ablate import ablate
from interp.cli.bench import bench
from interp.cli.circuit import circuit
from interp.cli.diff import diff
from interp.cli.dla import dla
from interp.cli.env import env
from interp.cli.head import head
from interp.cli.map import map
from interp.cli.models import models
from interp.cli.patch import patch
from interp.cli.paths import paths
from interp.cli.plan import plan
from interp.cli.report import report
from interp.cli.resume import resume
from interp.cli.safety import safety
from interp.cli.score import score
from interp.cli.sinks import sinks
from interp.cli.swap import swap
from interp.cli.tasks import tasks
from interp.cli.validate import validate
from interp.cli.verb import verb
from interp.cli.verify import verify
from interp.cli.zoo import zoo

EPILOG = (
    "Exit codes: 0 done; 1 unexpected; 2 usage; 3 bad input data; 4 the model cannot do this; 5 partial; "
    "6 environment; 7 integrity; 130 interrupted."
)

app = typer.Typer(
    name="interp",
    help="What does this attention head do, and how do you know?",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _function in (
    ablate,
    patch,
    paths,
    dla,
    score,
    head,
    sinks,
    safety,
    circuit,
    map,
    swap,
    plan,
    resume,
    verify,
    diff,
    report,
    validate,
    models,
    tasks,
    env,
):
    app.command()(verb(_function))
app.add_typer(zoo)
app.add_typer(bench)


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"interp {interp.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="interp")
