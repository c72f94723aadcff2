"""`interp plan`: what a sweep would cost. Nothing is written."""

from __future__ import annotations

from interp.cli.ablate import (
    AllowPickle,
    BatchSize,
    Device,
    Dtype,
    Engine,
    Heads,
    Memory,
    MetricName,
    NControls,
    Operator,
    Positions,
    Shards,
    Threads,
    Workers,
)
from interp.cli.questions import (
    FirstToken,
    Limit,
    Model,
    Number,
    Prompts,
    SkipBadLines,
    TaskArgs,
    TaskName,
    Truncate,
    questions,
)
from interp.cli.terminal import Terminal


def plan(
    terminal: Terminal,
    model: Model,
    task: TaskName = None,
    task_args: TaskArgs = "",
    prompts: Prompts = None,
    n: Number = None,
    limit: Limit = None,
    heads: Heads = "all",
    operator: Operator = "mean",
    metric: MetricName = None,
    positions: Positions = "all",
    controls: NControls = 4,
    batch_size: BatchSize = 32,
    engine: Engine = "rerun",
    memory: Memory = 1024,
    dtype: Dtype = None,
    device: Device = None,
    workers: Workers = 1,
    shards: Shards = None,
    threads: Threads = 1,
    truncate: Truncate = False,
    first_token: FirstToken = False,
    skip_bad_lines: SkipBadLines = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Say what `interp ablate` would cost with the same options; one unit is run for that."""
    asked = questions(task, task_args, prompts, n, limit, skip_bad_lines, terminal.seed)

    from interp.ablation.settings import Settings
    from interp.ablation.study import Study
    from interp.ablation.sweep import one_speed, planned
    from interp.hooks.names import parse_heads
    from interp.loading import load
    from interp.sweeps.executors.base import Execution
    from interp.sweeps.text import estimate_lines

    execution = Execution("inline" if workers == 1 else "process", workers, shards, threads=threads)
    opened = load(model, dtype=dtype, device=device, allow_pickle=allow_pickle)
    settings = Settings(
        heads=tuple(head.label for head in parse_heads(heads, opened.heads)),
        operator=operator,
        metric=metric,
        positions=None if positions == "all" else positions,
        n_controls=controls,
        batch_size=batch_size,
        engine=engine,
        memory=memory,
        seed=terminal.seed,
        truncate=truncate,
        first_token=first_token,
    )
    with one_speed(threads):
        found, expected = planned(Study.make(opened, asked, settings), execution)
    for line in estimate_lines(expected):
        terminal.say(line)
    keys = [shard.key for shard in found.shards]
    terminal.emit({"exit_code": 0, "plan": found.digest, "expected": expected.to_dict(), "shards": keys})
