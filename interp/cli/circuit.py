"""`interp circuit`: the edges of a model that do a task, judged on other prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.ablate import resume_line
from interp.cli.lists import words
from interp.cli.questions import Asked, BatchSize, MetricName, Out, Overwrite
from interp.cli.results import run_data, tell
from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.circuits.edges.methods import Settings
    from interp.discovery.result import Circuit

MethodName = Annotated[str, typer.Option("--method", help="How edges are scored; --methods lists all.")]
ListMethods = Annotated[bool, typer.Option("--methods", help="List the methods and stop.")]
Ablation = Annotated[
    str, typer.Option("--ablation", help="In the place of edges that are out: resample, zero, mean, ...")
]
Size = Annotated[float | None, typer.Option("--size", help="Of the circuit: a share below 1, or a number of edges.")]
Threshold = Annotated[float | None, typer.Option("--threshold", help="Smallest score of an edge in the circuit.")]
Faithful = Annotated[
    float | None, typer.Option("--faithful", help="The first size that keeps this share; default .85.")
]
Signed = Annotated[bool, typer.Option("--signed", help="Rank by score, what hurts last, not by its size.")]
Where = Annotated[str, typer.Option("--positions", help="none, roles, or all: which positions have their own edges.")]
JudgeArgs = Annotated[
    str, typer.Option("--judge-args", metavar="K=V,...", help="Options of the task for prompts that judge.")
]
Option = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A setting of the method: steps=10, tau=0.03, ...; --methods names them."
    ),
]
Budget = Annotated[int | None, typer.Option("--budget", min=1, help="MiB that scoring may hold beside the weights.")]
NRandom = Annotated[int, typer.Option("--random", min=0, help="Random circuits of the circuit's size.")]
WithChecks = Annotated[
    bool, typer.Option("--checks", help="Also test hypotheses and search for parts that hide each other; minutes.")
]
Explain = Annotated[
    int, typer.Option("--explain", min=0, help="Look for subspaces that carry this many of the strongest edges.")
]
PassportNames = Annotated[
    str, typer.Option("--passports", help="Of its heads: 'all fitting', or names of scorers; adds minutes.")
]
RoleNames = Annotated[
    str, typer.Option("--roles", help="Ask scorers what the heads do: names, or 'usual'; adds seconds to minutes.")
]
Export = Annotated[
    list[str], typer.Option("--export", help="FILE.json or .pt (MIB), .graph.json, .graphml, .dot; may be repeated.")
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Say what scoring would cost, and stop.")]
ScoreFile = Annotated[str | None, typer.Option("--scores", help="Take the scores from a file of another tool.")]
ReportPath = Annotated[str | None, typer.Option("--report", help="Also write the result as one HTML page.")]


@dataclass(frozen=True)
class Searched(Asked):
    """Options of `circuit`: a listing needs no model."""

    model: Annotated[str, typer.Option("--model", "-M", help="Bundled name, folder of save_pretrained, or hub id.")] = (
        ""
    )


def circuit(
    terminal: Terminal,
    asked: Searched,
    method: MethodName = "eap-ig",
    ablation: Ablation = "resample",
    size: Size = None,
    threshold: Threshold = None,
    faithful: Faithful = None,
    signed: Signed = False,
    positions: Where = "none",
    judge_args: JudgeArgs = "",
    metric: MetricName = None,
    setting: Option = [],  # noqa: B006  (typer reads it, nobody writes it)
    random: NRandom = 100,
    batch_size: BatchSize = 32,
    budget: Budget = None,
    checks: WithChecks = False,
    explain: Explain = 0,
    passports: PassportNames = "",
    roles: RoleNames = "",
    scores: ScoreFile = None,
    export: Export = [],  # noqa: B006  (typer reads it, nobody writes it)
    report: ReportPath = None,
    out: Out = None,
    overwrite: Overwrite = False,
    methods: ListMethods = False,
    plan: PlanOnly = False,
) -> None:
    """Find the circuit of a task: score every edge, choose, and judge on prompts that had no part in choosing."""
    if methods:
        return show_methods(terminal)
    if not asked.model:
        raise InterpError(
            "E205", "no --model", fix="interp circuit --model mini --task ioi; --methods lists the methods"
        )
    task = asked.make_task(terminal.seed)
    settings = read_settings(method, setting, terminal.seed)
    if plan:
        from interp.discovery.planning import plan_circuit

        expected = plan_circuit(
            asked.open(), task, method=method, ablation=ablation, positions=positions, metric=metric, settings=settings,
            batch_size=batch_size, budget=budget, seed=terminal.seed, truncate=asked.truncate, first_token=asked.first_token,
        )  # fmt: skip
        terminal.say(str(expected))
        return terminal.emit({"exit_code": 0, "plan": asdict(expected)})
    judge = None
    if judge_args:
        if asked.task is None:
            raise InterpError("E205", "--judge-args with --prompts", fix="it is for --task; a file is split in halves")
        args = ",".join(text for text in (asked.task_args, judge_args) if text)
        judge = replace(asked, task_args=args).make_task(terminal.seed + 1)
    folder = asked.folder(out, f"circuit-{method}", overwrite=overwrite)

    from interp.discovery.roles import ROLES
    from interp.discovery.run import circuit as run
    from interp.passport.families import EVERY, FITTING

    model = asked.open()
    with resume_line(terminal, folder), terminal.following("prompts scored") as progress:
        result = run(
            model, task, method=method, ablation=ablation, size=size, threshold=threshold, faithful=faithful,
            absolute=not signed, positions=positions, judge=judge, scores=scores, metric=metric, settings=settings,
            n_random=random, checks=checks, explain=explain, passports=passports if passports in ("", FITTING, EVERY) else words(passports), batch_size=batch_size, budget=budget, seed=terminal.seed, truncate=asked.truncate,
            first_token=asked.first_token, command=terminal.command,
            roles=ROLES if roles == "usual" else words(roles), progress=progress, out=folder, overwrite=overwrite,
        )  # fmt: skip
    conclude(terminal, result, folder, export, report)


def conclude(terminal: Terminal, result: Circuit, folder: Path, export: Sequence[str], report: str | None) -> None:
    """Say what a stored run says, and write what else was asked for."""
    data = {
        "edges": result.n_edges, "of": result.graph.n_edges, "faithfulness": list(result.faithfulness), "beaten_by": result.beaten_by,
        "random": len(result.random), "cpr": list(result.cpr), "cmd": list(result.cmd), "heads": result.heads,
        "ablations": result.ablation_table(), "parts": result.parts_frame().to_dict("records"),
        "explained": [one.record() for one in result.explained],
        "passports": None if result.passports is None else result.passports.record(),
    }  # fmt: skip
    tell(terminal, result, result.table(), f"{len(result.prompts)} judge")
    for caption, (columns, rows) in result.asked_tables().items():
        terminal.say(f"{caption}:")
        terminal.table(columns, rows)
    terminal.say(f"run:    {folder}")
    terminal.emit({**run_data(result, folder), **data})
    for path in export:
        from interp.discovery.exports import export as write_for

        for note in write_for(result, path):
            terminal.say(f"note: {path}: {note}")
        terminal.say(f"export: {path}")
    if report is not None:
        from interp.report.page import report as write

        terminal.say(f"report: {write(result, report)}")


def show_methods(terminal: Terminal) -> None:
    """Every method with what its score is and where it is from."""
    from interp.circuits.edges.methods import METHODS

    rows = [(one.name, one.says, ", ".join(one.settings), one.source) for one in METHODS.values()]
    terminal.table(("method", "score", "settings", "source"), rows)
    terminal.emit(
        {"exit_code": 0, "methods": {name: {"says": one.says, "source": one.source} for name, one in METHODS.items()}}
    )


KINDS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("rule", "members", "combine", "start"), str),
    "steps": int,
    "epochs": int,
    "taus": lambda text: tuple(map(float, text.split(":"))),
}
"""How settings are read that are no single number; several stand with colons between them."""


def read_settings(method: str, given: list[str], seed: int) -> Settings:
    """Settings of a method from `name=value` (E201 unknown method or setting; E205 not a number)."""
    from interp.circuits.edges.methods import Settings, find_method

    known = find_method(method).settings
    found: dict[str, Any] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in known:
            fix = f"{method} reads {', '.join(known) or 'none'}"
            raise InterpError("E201", f"{method} has no setting {name!r}", where=f"--set {text}", fix=fix)
        try:
            found[name] = KINDS.get(name, float)(value)
        except ValueError:
            fix = "write --set steps=10, or --set taus=0.01:0.1:1"
            raise InterpError("E205", f"{value!r} is no value of {name}", where=f"--set {text}", fix=fix) from None
    return Settings(seed=seed, **found)
