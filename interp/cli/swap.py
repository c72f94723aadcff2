"""`interp swap`: which heads need full attention, and what the others can do with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import results
from interp.cli.ablate import Heads
from interp.cli.lists import words
from interp.cli.questions import Asked, Compared
from interp.cli.terminal import Terminal

if TYPE_CHECKING:
    from interp.swapping.result import SwapResult

Variants = Annotated[
    str | None,
    typer.Option("--variants", help="Mask classes, operators: nothing,sink,window,... Default: all classes."),
]
Loss = Annotated[float, typer.Option("--loss", min=0.0, help="What a configuration may lose: 0.02 is two points.")]
LossOf = Annotated[str, typer.Option("--loss-of", help="accuracy, or metric: a share of its clean mean.")]
SinkTokens = Annotated[int, typer.Option("--sink-tokens", min=1, help="First tokens that sink classes see.")]
Recent = Annotated[int | None, typer.Option("--recent", min=1, help="Nearest tokens; default: an eighth of a prompt.")]
Roles = Annotated[str | None, typer.Option("--roles", help="Segments of the document classes; default: all roles.")]
Taken = Annotated[str, typer.Option("--taken", help="What stands in for a head taken away: mean or zero.")]
Restricted = Annotated[str, typer.Option("--restricted", help="Class of all heads that do not need full attention.")]
NControls = Annotated[int, typer.Option("--controls", min=0, help="Matched random configurations for each answer.")]
NChoose = Annotated[int | None, typer.Option("--choose", min=1, help="Prompts that choose; default: half of them.")]


@dataclass(frozen=True)
class Configured(Compared):
    """The same, with controls of whole configurations."""

    controls: NControls = 10


def swap(
    terminal: Terminal,
    asked: Asked,
    compared: Configured,
    heads: Heads = "all",
    variants: Variants = None,
    loss: Loss = 0.02,
    loss_of: LossOf = "accuracy",
    sink_tokens: SinkTokens = 4,
    recent: Recent = None,
    roles: Roles = None,
    taken: Taken = "mean",
    restricted: Restricted = "sink+recent",
    choose: NChoose = None,
) -> None:
    """Find the heads that need full attention, and what suffices for the others."""
    task = asked.make_task(terminal.seed)
    folder = asked.folder(compared.out, "swap", overwrite=compared.overwrite)

    from interp.swapping.run import swap as run

    model = asked.open()
    with terminal.following("single swaps") as progress:
        result = run(
            model,
            task,
            heads=heads,
            variants=None if variants is None else words(variants),
            loss=loss,
            loss_of=loss_of,
            sink_tokens=sink_tokens,
            recent=recent,
            roles=None if roles is None else words(roles),
            taken=taken,
            restricted=restricted,
            n_choose=choose,
            **compared.given(terminal, asked),
            progress=progress,
        )
    conclude(terminal, result, folder, overwrite=compared.overwrite)


def conclude(terminal: Terminal, result: SwapResult, folder: Path, *, overwrite: bool) -> None:
    """Save a result, and say what it says."""
    result.save(folder, overwrite=overwrite)
    results.show(terminal, result)
    terminal.say(f"run:    {folder}")
    results.check_finite(result, folder)
    terminal.emit(as_data(result, folder))


def as_data(result: SwapResult, folder: Path) -> dict[str, Any]:
    """The run for machines; every head is in it."""
    return {
        **results.as_data(result, folder),
        "full_heads": result.full_heads,
        "configuration": result.configuration,
        "alone": result.alone,
        "verdicts": {name: verdict(result, name) for name in ("needed", "cheapest")},
    }


def verdict(result: SwapResult, name: str) -> dict[str, Any]:
    """What held-out prompts say about a configuration, and what it costs."""
    found = result.verdict(name)
    judged = {word: getattr(found, word) for word in ("holds", "is_sure", "claimed")}
    return {**asdict(found), **judged, "keys": result.mean_keys(getattr(result, name))}
