"""`interp safety`: which heads make a model refuse, alone and together, and what refuses without them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.ablate import Heads
from interp.cli.lists import words
from interp.cli.questions import Asked, BatchSize, Out, Overwrite
from interp.cli.results import finish
from interp.cli.terminal import Terminal

if TYPE_CHECKING:
    from interp.safety.result import SafetyReport

Operator = Annotated[str, typer.Option("--operator", help="Of search and evidence: zero, mean, uniform or scale.")]
Operators = Annotated[str | None, typer.Option("--operators", help="Of the screening, side by side; default: all.")]
MaxSize = Annotated[int, typer.Option("--max-size", min=1, help="Heads in the group at most.")]
MaxKl = Annotated[float, typer.Option("--max-kl", min=0.0, help="What harmless prompts may lose, in nats.")]
NControls = Annotated[int, typer.Option("--controls", min=0, help="Matched random groups.")]
NewTokens = Annotated[int, typer.Option("--new-tokens", min=1, help="Of every reply that is read.")]


@dataclass(frozen=True)
class Questioned(Asked):
    """Options of `safety`: there is one task that suits it."""

    def settled(self) -> Questioned:
        """With that task, where neither a task nor a file was named."""
        return replace(self, task="safety") if self.task is None and self.prompts is None else self


def safety(
    terminal: Terminal,
    asked: Questioned,
    heads: Heads = "all",
    operator: Operator = "zero",
    operators: Operators = None,
    max_size: MaxSize = 5,
    max_kl: MaxKl = 0.1,
    controls: NControls = 10,
    new_tokens: NewTokens = 16,
    batch_size: BatchSize = 32,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the heads that make a model refuse, and try it without them on other prompts."""
    asked = asked.settled()
    task = asked.make_task(terminal.seed)
    folder = asked.folder(out, "safety", overwrite=overwrite)

    from interp.safety.run import safety as run

    given: dict[str, Any] = {} if operators is None else {"operators": words(operators)}
    model = asked.open()
    with terminal.following("steps") as progress:
        report = run(
            model, task, heads=heads, operator=operator, max_size=max_size, max_kl=max_kl, n_controls=controls,
            max_new_tokens=new_tokens, batch_size=batch_size, seed=terminal.seed, truncate=asked.truncate,
            command=terminal.command, progress=progress, **given,
        )  # fmt: skip
    say(terminal, report, folder, overwrite=overwrite)


def say(terminal: Terminal, report: SafetyReport, folder: Path, *, overwrite: bool) -> None:
    """Save a report, and say what it says."""
    data = {
        "group": list(report.group), "claimed": report.verdict.claimed,
        "safety_heads": {one: list(report.safety_heads(one)) for one in report.operators},
        "trials": [_trial(report, row) for row in range(len(report.trials))],
        "kept": len(report.prompts), "held_out": len(report.held_out),
    }  # fmt: skip
    prompts = f"{len(report.prompts)} to search on, {len(report.held_out)} held out"
    finish(terminal, report, folder, report.table(), data, prompts=prompts, overwrite=overwrite)


def _trial(report: SafetyReport, row: int) -> dict[str, Any]:
    """One trial for machines: means over held-out prompts."""
    numbers = {name: float(values[row].mean()) for name, values in report.numbers.items()}
    judged = {f"complied_{judge}": float(values[row].mean()) for judge, values in report.complied.items()}
    return {**report.trials[row].to_dict(), **numbers, **judged}
