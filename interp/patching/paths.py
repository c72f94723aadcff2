"""Path patching on a task: which heads send what to a receiver, through the residual stream alone."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from interp.ablation.asking import prompt_records
from interp.circuits.paths import Paths, Sender, check_paths
from interp.circuits.receivers import Receiver, parse_receivers, reaches, sharing
from interp.circuits.tables import NAMED
from interp.hooks.batch import Batch
from interp.hooks.edits import Positions
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress
from interp.hooks.names import HeadId, HeadLike, parse_heads
from interp.kernels.errors import InterpError
from interp.patching.both import DIRECTIONS, BothRuns, Outputs
from interp.patching.cells import places_of, plain_positions
from interp.patching.controls import Measured
from interp.patching.proof import prove
from interp.patching.result import PathResult
from interp.sweeps.job import MEMORY
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def paths(
    model: HookedModel,
    task: Task,
    receivers: str | Iterable[str] = "logits",
    senders: str | HeadLike | Iterable[HeadLike] = "all",
    *,
    through_mlps: bool = False,
    direction: str = "noise",
    positions: Positions = None,
    together: bool = False,
    metric: str | Metric | None = None,
    n_controls: int = 4,
    batch_size: int = 32,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
    memory: int = MEMORY,
    command: str = "",
    progress: Progress | None = None,
) -> PathResult:
    """What each head sends to a receiver along the residual stream, measured at the output.

    See `interp.circuits.paths` for the definition (Wang et al. 2022; Goldowsky-Dill et al. 2023).

    Args:
        receivers: 'logits', or labels that are patched together: `L2H1.q`, `L2H1.k`, `L2H1.v` (what a head makes its
            queries, keys or values of; `L2KV0.k` where query heads share them) and `M3` (what the MLP of layer 3 reads).
        senders: heads, as in `interp.ablate`; 'all' takes those that can reach a receiver.
        through_mlps: let paths lead through MLPs; False holds all MLPs at the base run.
        direction: 'noise' measures the clean run, with what senders write in the corrupt run; 'denoise' the other way
            round.
        positions: where senders write; as in `interp.patch`, also 'each' and 'roles'. Nothing moves between positions
            on the way, so receivers are changed at the same ones.
        together: all these senders at once; the controls are random sets of as many heads in each layer.
        metric, n_controls, batch_size, seed, truncate, first_token, memory, command, progress: as in `interp.patch`.

    Raises:
        InterpError: as `interp.patch`; E205 a sender that cannot reach any receiver; E403 layers that cannot be held.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    found = parse_receivers(receivers, model)
    check_paths(model, through_mlps)
    chosen = choose_senders(model, senders, found)
    both = BothRuns.make(model, task, direction, metric, batch_size, truncate=truncate, first_token=first_token)
    measured = (
        Measured.group(both.shared, chosen, n_controls, seed)
        if together
        else Measured.heads(both.shared, chosen, n_controls)
    )
    cells, controls = measured.cells(places_of(positions, both.pairs))
    proof = prove(model, ("z",), measured.units, both.pairs.clean)

    def outputs(base: Batch, source: Batch, start: int, stop: int, columns: Int[Tensor, " column"] | None) -> Outputs:
        read_at = both.shared.question.read_at[start:stop]
        way = Paths(model, base, source, read_at, found, through_mlps, columns, memory << 20)
        return way.outputs([Sender(cell.unit.heads, cell.positions(positions)) for cell in cells])

    values = both.values(outputs, cells, positions, progress)
    labels = [receiver.label for receiver in found]
    way = "through MLPs" if through_mlps else "around MLPs"
    method = {
        "kind": PathResult.kind,
        "description": f"{DIRECTIONS[direction]}, at the receivers alone",
        "points": f"paths to {', '.join(labels) if len(labels) <= NAMED else f'{len(labels)} receivers'} {way}",
        "receivers": labels,
        "through_mlps": through_mlps,
        "axis": "group" if together else "query_head",
        "positions": plain_positions(positions),
        "n_controls": n_controls,
    }
    told = (*measured.notes, *sharing(found, model))
    seconds = round(time.monotonic() - clock, 3)
    return PathResult(
        both.run_info(method, proof, told, seed, command=command, started=started, seconds=seconds), cells,
        prompt_records(model, both.pairs), values.clean, values.corrupt, values.cells, controls,
        (*both.found.drops, *both.pairs.drops),
    )  # fmt: skip


def choose_senders(
    model: HookedModel, spec: str | HeadLike | Iterable[HeadLike], receivers: tuple[Receiver, ...]
) -> tuple[HeadId, ...]:
    """The senders of this name; 'all' are those that can reach a receiver.

    Raises:
        InterpError: E205 one that was named cannot reach any, or none can.
    """
    named = parse_heads(spec, model.heads)
    able = tuple(head for head in named if reaches(head, receivers))
    lost = [head.label for head in named if head not in able]
    if not able or (lost and not (isinstance(spec, str) and spec == "all")):
        where = ", ".join(receiver.label for receiver in receivers)
        raise InterpError(
            "E205",
            f"{', '.join(lost[:5])} cannot reach {where}: heads write to later parts alone",
            fix="choose heads of earlier layers",
        )
    return able
