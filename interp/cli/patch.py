"""`interp patch`: what each part of a model carries of the difference between clean and corrupt prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from interp.cli.ablate import Heads
from interp.cli.lists import numbers
from interp.cli.questions import Asked, Compared
from interp.cli.results import conclude
from interp.cli.terminal import Terminal
from interp.kernels.errors import InterpError

Direction = Annotated[str, typer.Option("--direction", help="denoise: clean into corrupt runs; noise: the reverse.")]
Where = Annotated[
    str, typer.Option("--positions", help="all, end, a role, numbers (3,4), or a grid: each position, or all roles.")
]
Point = Annotated[
    str,
    typer.Option("--point", help="z, q, k, v, pattern, resid_post, ...; several: q,k; from where: q=clean,k=corrupt"),
]
Layers = Annotated[str | None, typer.Option("--layers", help="For points of the stream: 0,1,5; default: all.")]
Together = Annotated[bool, typer.Option("--together", help="All heads at once, beside random sets.")]


def patch(
    terminal: Terminal,
    asked: Asked,
    compared: Compared,
    heads: Heads = "all",
    direction: Direction = "denoise",
    point: Point = "z",
    positions: Where = "all",
    layers: Layers = None,
    together: Together = False,
) -> None:
    """Patch one run of each pair with parts of the other, and test how far a metric follows."""
    task = asked.make_task(terminal.seed)
    folder = asked.folder(compared.out, f"patch-{direction}", overwrite=compared.overwrite)
    chosen = None if layers is None else numbers(layers, "--layers")

    from interp.patching.run import patch as run

    model = asked.open()
    with terminal.following("cells") as progress:
        result = run(
            model,
            task,
            heads=heads,
            direction=direction,
            positions=places(positions),
            point=points(point),
            layers=chosen,
            together=together,
            **compared.given(terminal, asked),
            progress=progress,
        )
    conclude(terminal, result, folder, overwrite=compared.overwrite)


def points(text: str) -> str | list[str] | dict[str, str]:
    """One point, several, or several with their sources (E205)."""
    parts = [part.strip().partition("=") for part in text.split(",")]
    if all(equals for _, equals, _ in parts):
        return {name: source for name, _, source in parts}
    if any(equals for _, equals, _ in parts):
        raise InterpError("E205", f"--point {text} names some sources, and not all", fix="write q=clean,k=corrupt")
    return [name for name, _, _ in parts] if len(parts) > 1 else text


def places(text: str) -> None | str | tuple[int, ...]:
    """Positions as a method takes them."""
    if text == "all":
        return None
    return numbers(text, "--positions") if text[:1].isdecimal() else text
