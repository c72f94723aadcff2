"""`interp bench circuits`: every method on edges that are known to be true."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.terminal import Terminal

if TYPE_CHECKING:
    from interp.bench.circuits.table import CircuitBench

FILES = ("--out", "--report")
SHOWN = 6
"""Cells against a statement that a terminal shows."""


def circuits(
    terminal: Terminal,
    models: Annotated[str, typer.Option("--models", help="Some bundled models, with commas; all by default.")] = "",
    methods: Annotated[str, typer.Option("--methods", help="Some methods, with commas; all by default.")] = "",
    ablation: Annotated[
        str, typer.Option("--ablation", help="resample, zero, or both: under which edges are true.")
    ] = "both",
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Of each model; 64 are bundled.")] = 16,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Of torch; 0 leaves them as they are.")] = 1,
    stored: Annotated[bool, typer.Option("--stored", help="Measure nothing: show the result that is shipped.")] = False,
    out: Annotated[str | None, typer.Option("--out", help="Write all figures to this JSON file.")] = None,
    report: Annotated[str | None, typer.Option("--report", help="Write one HTML page.")] = None,
) -> None:
    """Every way to score edges against every bundled model whose true edges are known."""
    import torch

    from interp.bench.circuits.page import report as write
    from interp.bench.circuits.run import run
    from interp.bench.circuits.table import stored as shipped
    from interp.bench.circuits.truths import ABLATIONS

    if stored:
        bench = shipped()
    else:
        if threads:
            torch.set_num_threads(threads)
        with terminal.following("cells") as progress:
            bench = run(
                _names(models), _names(methods), ABLATIONS if ablation == "both" else _names(ablation),
                prompts=prompts, seed=terminal.seed, command=_measuring(terminal.command), progress=progress,
            )  # fmt: skip
    show(terminal, bench)
    if out is not None:
        terminal.say(f"figures: {bench.save(out)}")
    if report is not None:
        terminal.say(f"report: {write(bench, report)}")


def show(terminal: Terminal, bench: CircuitBench) -> None:
    """The table, the summary and the statements."""
    from interp.bench.circuits.grid import brief_table, grid, notes, spoken_run
    from interp.bench.circuits.verdicts import verdicts

    terminal.say(spoken_run(bench))
    terminal.say("Average precision of all edges, by the mean over prompts of the size of their scores:")
    columns, rows = grid(bench)
    terminal.table(columns, rows)
    for note in notes(bench):
        terminal.say(f"  {note}")
    terminal.say()
    terminal.table(*brief_table(bench))
    terminal.say()
    found = verdicts(bench)
    for one in found:
        terminal.say(f"[{one.word}] {one.says}: {one.found}")
        for line in one.against[:SHOWN]:
            terminal.say(f"    against: {line}")
        if len(one.against) > SHOWN:
            terminal.say(f"    and {len(one.against) - SHOWN} more")
    terminal.emit({"exit_code": 0, **bench.to_dict(), "verdicts": [{"word": one.word, **asdict(one)} for one in found]})


def _measuring(command: str) -> str:
    """The command without the files that it writes: they change no figure."""
    words = shlex.split(command)
    kept = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & set(FILES)]
    return shlex.join(kept)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
