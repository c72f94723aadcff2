"""`interp plan`: what a sweep would cost. Nothing is written."""

from __future__ import annotations

from interp.cli.ablate import Engine, Heads, Operator, Positions, Shards, Threads, Workers
from interp.cli.questions import Asked, BatchSize, Memory, MetricName, NControls
from interp.cli.terminal import Terminal


def plan(
    terminal: Terminal,
    asked: Asked,
    heads: Heads = "all",
    operator: Operator = "mean",
    metric: MetricName = None,
    positions: Positions = "all",
    controls: NControls = 4,
    batch_size: BatchSize = 32,
    engine: Engine = "rerun",
    memory: Memory = 1024,
    workers: Workers = 1,
    shards: Shards = None,
    threads: Threads = 1,
) -> None:
    """Say what `interp ablate` would cost with the same options; one unit is run for that."""
    task = asked.make_task(terminal.seed)

    from interp.ablation.settings import Settings
    from interp.ablation.study import Study
    from interp.ablation.sweep import one_speed, planned
    from interp.hooks.names import parse_heads
    from interp.sweeps.executors.base import Execution
    from interp.sweeps.text import estimate_lines

    execution = Execution("inline" if workers == 1 else "process", workers, shards, threads=threads)
    model = asked.open()
    settings = Settings(
        heads=tuple(head.label for head in parse_heads(heads, model.heads)),
        operator=operator,
        metric=metric,
        positions=None if positions == "all" else positions,
        n_controls=controls,
        batch_size=batch_size,
        engine=engine,
        memory=memory,
        seed=terminal.seed,
        **asked.cutting(),
    )
    with one_speed(threads):
        found, expected = planned(Study.make(model, task, settings), execution)
    for line in estimate_lines(expected):
        terminal.say(line)
    keys = [shard.key for shard in found.shards]
    terminal.emit({"exit_code": 0, "plan": found.digest, "expected": expected.to_dict(), "shards": keys})
