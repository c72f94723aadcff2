"""`interp bench`: what the speed claims are measured with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from interp.cli.bench_circuits import circuits
from interp.cli.bench_kernels import kernels
from interp.cli.terminal import Terminal
from interp.cli.verb import verb

COLUMNS = ("", "variants", "seconds", "x TransformerLens", "x transformers", "x predicted", "difference", "bar")


def engine(
    terminal: Terminal,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Prompts in the batch.")] = 16,
    width: Annotated[int, typer.Option("--width", min=8, help="Tokens of a prompt.")] = 32,
    header: Annotated[int, typer.Option("--header", min=1, help="Tokens of the shared beginning.")] = 256,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved repetitions; medians are shown.")] = 3,
    only: Annotated[str, typer.Option("--only", help="Only the rows whose name holds this text.")] = "",
    memory: Annotated[int, typer.Option("--memory", min=1, help="MiB that a run may hold.")] = 1024,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """The re-execution engine against loops of full forwards, on GPT-2 small's shape with random weights."""
    from interp.bench.engine import build_model, measure, scenarios
    from interp.cli.env import environment

    about = environment()
    names = ("torch", "transformers", "transformer-lens")
    terminal.say(", ".join([*(f"{name} {about[name]}" for name in names if name in about), str(about["device"])]))
    terminal.say(f"{about['threads']} threads, {rows} prompts of {width} tokens, medians of {rounds} rounds")
    model = build_model(device)
    bridge = model.to_transformer_lens()
    chosen = [scenario for scenario in scenarios(model, rows, width, header) if only in scenario.name]
    found = [measure(model, bridge, scenario, rounds=rounds, budget=memory << 20) for scenario in chosen]
    terminal.table(
        COLUMNS,
        [
            (
                row.name,
                str(row.variants),
                f"{row.ours:.2f}",
                f"{row.ratio:.2f}",
                f"{row.transformers_ratio:.2f}",
                f"{row.predicted:.2f}",
                f"{row.difference:.1e}",
                f"{row.bar:.2f} {'met' if row.met else 'NOT MET'}"
                + ("" if row.sharing is None else f" (without sharing: {row.sharing:.2f} times as long)"),
            )
            for row in found
        ],
    )
    failed = [row.name for row in found if not row.met]
    terminal.emit({"exit_code": 1 if failed else 0, "environment": about, "rows": [asdict(row) for row in found]})
    if failed:
        raise typer.Exit(1)


def edges(
    terminal: Terminal,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Pairs in the batch.")] = 8,
    width: Annotated[int, typer.Option("--width", min=2, help="Tokens of a prompt.")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved repetitions; medians are shown.")] = 3,
) -> None:
    """Edge attribution against TransformerLens' tool, on GPT-2 small's shape with random weights."""
    from interp.bench.edges import build_model, measure
    from interp.cli.env import environment

    about = environment()
    names = ("torch", "transformers", "transformer-lens")
    terminal.say(", ".join([*(f"{name} {about[name]}" for name in names if name in about), str(about["device"])]))
    terminal.say(f"{about['threads']} threads, {rows} pairs of {width} tokens, medians of {rounds} rounds")
    model = build_model()
    row = measure(model, model.to_transformer_lens(), rows=rows, width=width, rounds=rounds)
    columns = ("edges", "seconds a pair", "TransformerLens", "times faster", "largest difference", "bar")
    found = (f"{row.ours:.3f}", f"{row.theirs:.2f}", f"{row.ratio:.1f}", f"{row.difference:.1e}")
    terminal.table(columns, [(str(row.edges), *found, "met" if row.met else "NOT MET")])
    terminal.emit({"exit_code": 0 if row.met else 1, "environment": about, "row": asdict(row)})
    if not row.met:
        raise typer.Exit(1)


bench = typer.Typer(
    name="bench", help="Measure what the toolkit's speed claims rest on.", no_args_is_help=True, rich_markup_mode=None
)
bench.command()(verb(engine, group="bench"))
bench.command()(verb(kernels, group="bench"))
bench.command()(verb(edges, group="bench"))
bench.command()(verb(circuits, group="bench"))
