"""`interp paths`: which heads send what to a receiver, through the residual stream alone."""

from __future__ import annotations

from typing import Annotated

import typer

from interp.cli.patch import Direction, Together, Where, places
from interp.cli.questions import Asked, Compared
from interp.cli.results import conclude
from interp.cli.terminal import Terminal

Receivers = Annotated[
    str, typer.Option("--receivers", help="logits, or patched together: L2H1.q,L2H1.k,L2H1.v (a head), M3 (an MLP).")
]
Senders = Annotated[str, typer.Option("--senders", help="Heads; all takes those that can reach a receiver.")]
ThroughMlps = Annotated[bool, typer.Option("--through-mlps", help="Let paths lead through MLPs.")]


def paths(
    terminal: Terminal,
    asked: Asked,
    compared: Compared,
    receivers: Receivers = "logits",
    senders: Senders = "all",
    through_mlps: ThroughMlps = False,
    direction: Direction = "noise",
    positions: Where = "all",
    together: Together = False,
) -> None:
    """Patch the paths from each head to a receiver, and test what a metric loses."""
    task = asked.make_task(terminal.seed)
    folder = asked.folder(compared.out, f"paths-{receivers}", overwrite=compared.overwrite)

    from interp.patching.paths import paths as run

    model = asked.open()
    with terminal.following("senders") as progress:
        result = run(
            model,
            task,
            [label.strip() for label in receivers.split(",")],
            senders,
            through_mlps=through_mlps,
            direction=direction,
            positions=places(positions),
            together=together,
            **compared.given(terminal, asked),
            progress=progress,
        )
    conclude(terminal, result, folder, overwrite=compared.overwrite)
