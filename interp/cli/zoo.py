"""`interp zoo`: make bundled models anew, check their cards, and run the experiments whose outcome is known."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.terminal import Terminal
from interp.cli.verb import verb
from interp.kernels.errors import InterpError

MODELS = Annotated[list[str] | None, typer.Argument(help="Bundled models; all of them where none is named.")]


def train(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(help="Model whose recipe to follow; `interp models` lists them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints and the finished model.")],
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps; the recipe's own where not given.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints; 250 where not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda; cpu where not given.")] = None,
) -> None:
    """Make a bundled model anew: train it, or write its weights. --seed gives another one of its kind."""
    from interp.zoo.recipe import Training
    from interp.zoo.registry import recipe_of
    from interp.zoo.train import make

    recipe = replace(recipe_of(name), seed=terminal.seed)
    of_training = {"--steps": steps, "--checkpoint-every": checkpoint_every, "--resume": resume, "--device": device}
    if isinstance(recipe, Training):
        recipe = replace(recipe, steps=steps or recipe.steps)
    else:
        refuse([option for option, value in of_training.items() if value], name)
    folder = make(recipe, out, checkpoint_every=checkpoint_every, resume=resume, device=device)
    terminal.say(f"{name} is in {folder}")
    terminal.emit({"exit_code": 0, "folder": str(folder)})


def refuse(options: list[str], name: str) -> None:
    """Refuse options of a training for a model whose weights are written, in one go.

    Raises:
        InterpError: E205, where any was given.
    """
    if options:
        what = f"{name} is not trained: its weights are written, in no steps and on the CPU"
        raise InterpError("E205", what, where=", ".join(options), fix=f"leave out {' and '.join(options)}")


def verify(terminal: Terminal, names: MODELS = None) -> None:
    """Check the files of bundled models against their hashes, and measure every figure of their cards again."""
    from interp.zoo.registry import list_models
    from interp.zoo.verification import verify_model

    verdicts = []
    for name in names or list_models():
        verdicts.append(found := verify_model(name))
        outcome = "agree" if found.agrees else f"{len(found.differences)} DIFFER"
        terminal.say(f"{name}: {found.figures} figures {outcome}, {found.seconds:.1f} s")
        for path, stated, measured in found.differences:
            terminal.say(f"    {path}: the card says {stated}, measured {measured}")
    wrong = [verdict.name for verdict in verdicts if not verdict.agrees]
    terminal.emit(
        {
            "exit_code": 7 if wrong else 0,
            "models": {one.name: {"agrees": one.agrees, "differences": one.differences} for one in verdicts},
        }
    )
    if wrong:
        raise typer.Exit(7)


def check(
    terminal: Terminal,
    name: Annotated[str | None, typer.Argument(help="Experiment to run; where none is named, they are listed.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seeds", help="Instead of its own; may be repeated.")] = None,
) -> None:
    """Run an experiment whose outcome is known, for several seeds, and hold every finding against its bound."""
    from interp.zoo.toys import registry

    if name is None:
        toys = registry.list_toys()
        for toy in toys.values():
            terminal.say(f"{toy.name}: {toy.claim}")
            terminal.say(f"    {toy.source}")
        terminal.emit({"exit_code": 0, "toys": {toy.name: toy.claim for toy in toys.values()}})
        return
    report = registry.check(name, seeds)
    header = ("", *(f"seed {seed}" for seed in report.seeds), "bound", "claim")
    rows = [
        (
            "holds" if verdict.holds else "FAILS",
            *(f"{value:.4g}" for value in verdict.values),
            verdict.bound,
            verdict.claim,
        )
        for verdict in report.verdicts
    ]
    terminal.table(header, rows)
    terminal.say(f"{name}: {'every claim holds' if report.passed else 'a claim fails'}; {report.seconds:.0f} s")
    terminal.emit({"exit_code": 0 if report.passed else 1, **asdict(report)})
    if not report.passed:
        raise typer.Exit(1)


zoo = typer.Typer(
    name="zoo",
    help="Make bundled models anew, check their cards, run experiments with a known outcome.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for _function in (train, verify, check):
    zoo.command()(verb(_function, group="zoo"))
