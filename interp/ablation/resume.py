"""Going on with an ablation that was interrupted, failed in part, or was damaged afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from interp.ablation.request import Request
from interp.ablation.result import AblationResult
from interp.ablation.run import ablate
from interp.hooks.naive import Progress
from interp.sweeps.executors.base import Execution
from interp.sweeps.store import SweepFolder
from interp.sweeps.verify import verify


def resume(
    folder: str | Path,
    *,
    new_run: str | Path | None = None,
    progress: Progress | None = None,
    **execution: Any,
) -> AblationResult:
    """Finish a run; what is stored and sound is kept.

    Args:
        folder: of the run.
        new_run: start over in this folder instead, with the same request and today's code, model and data.
        progress: called with (edits of a batch done, all of them).
        execution: fields of `Execution` that are to be other than when the run was started.

    Raises:
        InterpError: E204 no run; E205 it was started with things that exist in memory alone; E604 another process works
            on it; E703 code, model, data or settings differ from the plan; what `interp.ablate` raises.
    """
    folder = Path(folder)
    if new_run is None and verify(folder).is_whole:
        return AblationResult.load(folder)
    started = SweepFolder.open(folder)
    request = Request.from_dict(started.request, str(folder))
    who: Execution = replace(request.execution, **execution)
    where = {"out": folder, "resume": True} if new_run is None else {"out": new_run}
    return ablate(
        request.opening.open(),
        request.make_task(),
        **request.settings.to_dict(),
        executor=who.executor,
        workers=who.workers,
        shards=who.shards,
        address=who.address,
        threads=who.threads,
        command=request.command,
        progress=progress,
        **where,
    )
