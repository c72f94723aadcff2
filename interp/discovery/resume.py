"""Going on with a circuit discovery that was interrupted."""

from __future__ import annotations

from pathlib import Path

from interp.circuits.runfolder import MANIFEST
from interp.discovery.asked import Asked
from interp.discovery.result import Circuit
from interp.discovery.run import circuit
from interp.hooks.naive import Progress
from interp.kernels.errors import InterpError
from interp.sweeps.ledger import Head, begun_as, forget
from interp.sweeps.lock import locked


def resume(folder: str | Path, *, new_run: str | Path | None = None, progress: Progress | None = None) -> Circuit:
    """Finish a run; what is kept and sound is not computed again.

    Args:
        folder: of the run.
        new_run: start over in this folder instead, with the same request and today's code, model and data.
        progress: called with (prompts scored, all of them).

    Raises:
        InterpError: E204 no run; E205 it was started with things that exist in memory alone; E604 another process works
            on it; E701 it is finished and damaged; E703 code, model, data or settings differ from the plan; what
            `interp.circuit` raises.
    """
    folder = Path(folder)
    if new_run is None and (folder / MANIFEST).is_file():
        try:
            found = Circuit.load(folder)
        except InterpError:
            if not begun_as(folder):
                raise
        else:
            if begun_as(folder):  # it was ended between its last two steps
                with locked(folder):
                    forget(folder)
            return found
    asked = Asked.from_dict(Head.read(folder).request, str(folder))
    if new_run is None:
        return circuit(
            asked.opening.open(), asked.make_task(), **asked.arguments(), progress=progress, out=folder, resume=True
        )
    return circuit(asked.opening.open(), asked.make_task(), **asked.arguments(), progress=progress, out=new_run)
