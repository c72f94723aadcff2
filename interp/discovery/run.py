"""Circuit discovery: score every edge, choose a circuit, and judge it on prompts that had no part in choosing it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from interp.circuits.edges.methods import Settings
from interp.discovery.choice import Choice
from interp.discovery.discovery import Discovery
from interp.discovery.request import Request
from interp.discovery.result import Circuit
from interp.discovery.sides import both_sides
from interp.discovery.storage import on_disk
from interp.heads import scorer
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress
from interp.kernels.errors import InterpError
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

BESIDE = ("zero", "mean", "mean-positional")
NOT_ASKED = ("model", "task", "judge", "progress", "out", "overwrite", "resume")
"""Arguments of `circuit` that are no settings."""


def circuit(
    model: HookedModel,
    task: Task,
    *,
    method: str = "eap-ig",
    ablation: str = "resample",
    size: float | int | None = None,
    threshold: float | None = None,
    faithful: float | None = None,
    absolute: bool = True,
    positions: str = "none",
    judge: Task | None = None,
    scores: str | Path | None = None,
    metric: str | Metric | None = None,
    settings: Settings | None = None,
    beside: Sequence[str] = BESIDE,
    n_random: int = 100,
    n_curve: int = 10,
    checks: bool = False,
    explain: int = 0,
    passports: str | Sequence[str] = "",
    roles: Sequence[str] = (),
    batch_size: int = 32,
    budget: int | None = None,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
    command: str = "",
    progress: Progress | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> Circuit:
    """Find the edges of a model that do a task, and judge them.

    Args:
        method: how edges are scored, a name in `interp.circuits.edges.methods.METHODS`.
        ablation: what stands in where an edge is out: 'resample' (the corrupt prompt), 'zero', 'mean', ...
        size: of the circuit, a share of all edges (below 1) or their number.
        threshold: smallest score of an edge in the circuit, in units of the metric.
        faithful: choose the smallest size at which the circuit keeps this share of the metric's gap, on the prompts that
            choose. 0.85 where none of the three is given.
        absolute: rank edges by the size of their score, so that edges that hurt are in the circuit too.
        positions: 'none': all positions share edges; 'roles': each role of the task has edges of its own, and so has the
            rest; 'all': each position has.
        judge: prompts that judge; None draws others of the same task, and takes the second half of a file.
        scores: a file of another tool that holds the scores of all edges (see `interp.discovery.exports`); nothing is
            scored then.
        metric: a name in `interp.hooks.metrics`; None is the task's own.
        settings: of the method, see `interp.circuits.edges.methods.Settings`; each method reads its own.
        beside: other replacements that the finished circuit is judged under.
        n_random: random circuits of the circuit's size; and at most as many that lack random edges, beside those that lack
            one part.
        n_curve: random circuits of each size of the curve.
        checks: test hypotheses about the circuit, and search the model for parts that stand in for each other; minutes.
        explain: for how many of the circuit's strongest edges a subspace is looked for that carries what they do, with the
            runs that prove it; on the first `batch_size` prompts of either side, seconds an edge.
        passports: scorers of the passports of the circuit's heads, as `interp.passport` takes them: 'all fitting', or names;
            minutes. '' makes none.
        roles: scorers that are asked what the heads do, such as those in `interp.discovery.roles.ROLES`; seconds to
            minutes.
        batch_size: prompts that are scored at a time.
        budget: MiB that scoring may hold beside the weights; fewer prompts, circuits and tokens go together where it
            asks for that. What is held is planned before any prompt of the task runs.
        seed: of intervals and random circuits.
        command: what a reader can type to repeat the run.
        progress: called with (prompts scored, all of them).
        out: folder of the run. What takes time is kept there as it is found, see `interp.discovery.storage`, so that a
            run that was ended can be resumed; a search that decides edge after edge (ACDC, growth, pruning) is kept as
            a whole. None keeps all in memory.
        overwrite: replace the run that is in `out`.
        resume: go on with the run that is in `out`, which must have been asked the same.

    Raises:
        InterpError: E201 unknown name; E203, E205 settings that do not fit; E204 `out` holds something else; E303 to
            E313 for the prompts; E402, E407 a metric that is not defined, has no gradient, or has no gap between the
            model and the model without edges; E403 a model that cannot be taken apart; E404 edges are not taken out as
            they should be; E602, E604 `out` cannot be written or is in use; E603 a budget that does not hold one
            prompt; E703 resumed with other settings.
    """
    asked = {name: value for name, value in locals().items() if name not in NOT_ASKED}
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    if out is None and (overwrite or resume):
        raise InterpError("E205", "settings of a stored run, and no folder", fix="name one with out=")
    for name in roles:
        scorer(name)  # refused now rather than after minutes
    if size is None and threshold is None and faithful is None:
        faithful = 0.85
    choice = Choice(size, threshold, faithful, absolute)
    request = Request.make(
        method, settings or Settings(seed=seed), seed, ablation=ablation, choice=choice, positions=positions,
        beside=tuple(name for name in beside if name != ablation), n_random=n_random, n_curve=n_curve,
        checks=checks, explain=explain, passports=passports, batch_size=batch_size, budget=budget,
    )  # fmt: skip
    chooses, judges = both_sides(
        model, task, judge, metric, ablation, positions, truncate=truncate, first_token=first_token
    )
    if scores is not None:
        request = request.with_scores(scores)
    discovery = Discovery(model, request, chooses, judges, progress, tuple(roles))

    def make() -> Circuit:
        result = discovery.result()
        seconds = round(time.monotonic() - clock, 3)
        return replace(result, run=replace(result.run, command=command, started=started, seconds=seconds))

    if out is None:
        return make()
    return on_disk(discovery, make, Path(out), judge, asked, overwrite=overwrite, resume=resume)
