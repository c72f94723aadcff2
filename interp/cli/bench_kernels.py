"""`interp bench kernels`: attention with statistics, against attention without and against whole patterns."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.terminal import Terminal

if TYPE_CHECKING:
    from interp.bench.kernels import Row
    from interp.bench.kernels_memory import Cost

COLUMNS = ("mask", "tokens", "backend", "mode", "seconds", "floor", "x torch", "eager x", "difference", "bar")
EAGER_LIMIT = 4096
"""Tokens from which on eager patterns of 12 heads take more than 3 GiB."""


def kernels(
    terminal: Terminal,
    lengths: Annotated[str, typer.Option("--lengths", help="Numbers of tokens, with commas.")] = "",
    masks: Annotated[str, typer.Option("--masks", help="Some of the masks, with commas; all by default.")] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved repetitions; medians are shown.")] = 3,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Of torch; 0 leaves them as they are.")] = 0,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Memory too, each in a fresh process.")] = True,
    grows: Annotated[
        bool, typer.Option("--grows", help="How time and memory grow, from 2048 to 32768 tokens.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Statistics of attention: what they cost beside torch's attention without any, 12 heads of width 64, float32."""
    import torch

    from interp.cli.env import environment

    if threads:
        torch.set_num_threads(threads)
    about = environment()
    terminal.say(f"torch {about['torch']}, {torch.get_num_threads()} threads, medians of {rounds} rounds, {device}")
    found: dict[str, Any] = {"environment": about}
    if device == "cuda":
        met = _on_gpu(terminal, found, _numbers(lengths or "8192,32768,131072"), rounds)
    elif grows:
        met = _growth(terminal, found, _numbers(lengths or "2048,4096,8192,16384,32768"))
    else:
        met = _grid(terminal, found, _numbers(lengths or "4096"), masks, rounds)
        if memory:
            _memory(terminal, found, max(_numbers(lengths or "4096")))
    terminal.emit({"exit_code": 0 if met else 1, **found})
    if not met:
        raise typer.Exit(1)


def _numbers(text: str) -> list[int]:
    from interp.kernels.errors import InterpError

    pieces = [piece.strip() for piece in text.split(",")]
    if not all(piece.isdecimal() and int(piece) > 0 for piece in pieces):
        raise InterpError("E205", f"{text!r} are no lengths", fix="--lengths 2048,4096")
    return [int(piece) for piece in pieces]


def _cpu_backends() -> tuple[str, ...]:
    """Those that run on a CPU at speed."""
    from interp.kernels.backends.choice import backends

    return tuple(name for name in ("cpp", "blockwise", "lse_algebra") if name in backends())


def _grid(terminal: Terminal, found: dict[str, Any], lengths: list[int], masks: str, rounds: int) -> bool:
    from interp.bench.kernels import MASKS, measure, multiplication_speed, scene
    from interp.kernels.errors import InterpError, suggest

    chosen = [mask.strip() for mask in masks.split(",")] if masks else list(MASKS)
    for mask in chosen:
        if mask not in MASKS:
            raise InterpError("E201", f"no mask is called {mask!r}", fix=suggest(mask, MASKS))
    speed = multiplication_speed()
    terminal.say(
        f"floor: the products alone, at the {speed / 1e9:.0f} GFLOP/s at which this machine multiplies matrices"
    )
    rows: list[Row] = []
    for length in lengths:
        for mask in chosen:
            eager = length <= EAGER_LIMIT and mask == "causal"
            own = measure(scene(mask, length), _cpu_backends(), rounds=rounds, eager=eager, speed=speed)
            terminal.table(COLUMNS, [_cells(row) for row in own])
            rows += own
    found["rows"] = [asdict(row) for row in rows]
    return all(row.met for row in rows)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.mask,
        str(row.length),
        row.backend,
        row.mode,
        f"{row.seconds:.3f}",
        f"{row.floor:.3f}",
        f"{row.ratio:.2f}",
        "" if row.eager is None else f"{row.eager:.1f}",
        "" if row.difference is None else f"{row.difference:.1e}",
        "" if row.bar is None else f"{row.bar:.2f} {'met' if row.met else 'NOT MET'}",
    )


def _memory(terminal: Terminal, found: dict[str, Any], length: int) -> None:
    import torch

    from interp.bench.kernels import HEADS
    from interp.bench.kernels_memory import fresh_cost

    length = min(length, EAGER_LIMIT)
    ways = [("torch", "out"), *((name, "out+row+column") for name in (*_cpu_backends(), "eager"))]
    costs = [fresh_cost(name, mode, length, heads=HEADS, threads=torch.get_num_threads()) for name, mode in ways]
    _say_costs(terminal, costs)
    found["memory"] = [asdict(cost) for cost in costs]


def _growth(terminal: Terminal, found: dict[str, Any], lengths: list[int]) -> bool:
    import torch

    from interp.bench.kernels_memory import fresh_cost, growth

    heads, costs = 4, []
    for name in (name for name in _cpu_backends() if name != "lse_algebra"):
        own = [
            fresh_cost(name, "out+row+column", length, heads=heads, threads=torch.get_num_threads())
            for length in lengths
        ]
        time, memory = growth(own)
        terminal.say(
            f"{name}: time grows as T^{time:.2f}"
            + ("" if memory is None else f", memory as T^{memory:.2f}")
            + f", {heads} heads"
        )
        costs += own
        found[name] = {"time": time, "memory": memory}
    _say_costs(terminal, costs)
    found["growth"] = [asdict(cost) for cost in costs]
    return True


def _say_costs(terminal: Terminal, costs: list[Cost]) -> None:
    terminal.table(
        ("fresh process", "mode", "tokens", "seconds", "extra MiB"),
        [
            (
                cost.backend,
                cost.mode,
                str(cost.length),
                f"{cost.seconds:.2f}",
                "" if cost.mib is None else f"{cost.mib:.0f}",
            )
            for cost in costs
        ],
    )


def _on_gpu(terminal: Terminal, found: dict[str, Any], lengths: list[int], rounds: int) -> bool:
    from interp.bench.kernels_gpu import rows

    table = rows(lengths, rounds=rounds)
    columns = list(table[0])
    terminal.table(
        columns,
        [
            tuple(f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in columns)
            for row in table
        ],
    )
    found["rows"] = table
    return all(row["met"] is not False for row in table)
