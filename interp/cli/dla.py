"""`interp dla`: what each part of a model writes directly towards the answer."""

from __future__ import annotations

from typing import Annotated

import typer

from interp.cli.questions import Asked, BatchSize, NControls, Out, Overwrite
from interp.cli.results import conclude
from interp.cli.terminal import Terminal

Position = Annotated[str, typer.Option("--position", help="Where logits are read: end, a role, or a number.")]


def dla(
    terminal: Terminal,
    asked: Asked,
    position: Position = "end",
    controls: NControls = 4,
    batch_size: BatchSize = 32,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Split the logit difference over what heads, MLPs and embeddings wrote towards it."""
    task = asked.make_task(terminal.seed)
    folder = asked.folder(out, "dla", overwrite=overwrite)

    from interp.attribution.run import dla as run

    model = asked.open()
    with terminal.following("batches") as progress:
        result = run(
            model,
            task,
            position=int(position) if position.isdecimal() else position,
            n_controls=controls,
            batch_size=batch_size,
            seed=terminal.seed,
            **asked.cutting(),
            command=terminal.command,
            progress=progress,
        )
    conclude(terminal, result, folder, overwrite=overwrite)
