"""Activation patching: put parts of one run of a pair into the other, and see how far the metric follows."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Int
from torch import Tensor

from interp.ablation.asking import prompt_records
from interp.hooks.batch import Batch
from interp.hooks.edits import Positions
from interp.hooks.metrics import Metric
from interp.hooks.naive import Progress
from interp.hooks.names import HeadLike, parse_heads
from interp.hooks.rerun.engine import Rerun
from interp.hooks.rerun.plan import Plan
from interp.kernels.errors import InterpError
from interp.patching.both import DIRECTIONS, BothRuns, Outputs
from interp.patching.cells import Cell, places_of, plain_positions
from interp.patching.controls import Measured
from interp.patching.points import Points, Source
from interp.patching.proof import prove
from interp.patching.result import COST, PatchResult
from interp.sweeps.job import MEMORY
from interp.tasks.base import Task

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def patch(
    model: HookedModel,
    task: Task,
    *,
    heads: str | HeadLike | Iterable[HeadLike] = "all",
    direction: str = "denoise",
    positions: Positions = None,
    point: str | Sequence[str] | Mapping[str, Source] = "z",
    layers: Sequence[int] | None = None,
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
) -> PatchResult:
    """What each part of a model carries of the difference between clean and corrupt prompts.

    Args:
        heads: 'all', labels, or `L3H*`; matched control heads are measured with them. For k and v, and wherever they
            are patched too, a unit is a key/value head with all query heads that share it.
        direction: 'denoise' runs the corrupt prompts and puts clean activations in, 'noise' the other way round.
        positions: where activations are put: None everywhere, 'end', a role of the task, token positions; 'each' and
            'roles' make a grid, every position (every role) by itself. Rows of queries, for the pattern. A prompt that
            has none of the positions has no number.
        point: 'z', 'q', 'k', 'v', 'pattern', or a point of the stream: 'resid_pre', 'attn_out', 'resid_mid', 'mlp_out',
            'resid_post'. Several points of heads are patched together; a mapping says where each one's values come
            from: 'clean', 'corrupt', or a third run (`paired_reference`, row by row the kept prompts), so that a head
            can have its queries from one run and its keys and values from another.
        layers: for points of the stream; None takes all.
        together: patch all these heads at once; the controls are random sets of as many heads in each layer.
        metric: a name in `interp.hooks.metrics`; None is the task's own.
        n_controls: matched control heads for each head, or random sets.
        batch_size: prompts whose recorded run is held at a time.
        seed: of the bootstrap, the permutation tests and the random sets.
        truncate: cut prompts that are too long instead of refusing them.
        first_token: use the first token of answers that have several.
        memory: MiB that a run of the engine may hold.
        command: what a reader can type to repeat the run.
        progress: called with (cells times batches done, all of them).

    Raises:
        InterpError: E201 unknown name; E202, E203 heads; E205 settings that do not fit together; E303 to E313 for the
            prompts, E303 where one has no corrupt prompt; E402, E407 metric not defined on this model; E403 point not
            open on it; E404 patches do not land.
    """
    started, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    both = BothRuns.make(model, task, direction, metric, batch_size, truncate=truncate, first_token=first_token)
    points = Points.parse(point, both.names[1], model)
    measured = _measured(both, points, heads, layers, n_controls, together, seed)
    cells, controls = measured.cells(places_of(positions, both.pairs))
    proof = prove(model, tuple(points.sources), measured.units, both.pairs.clean)
    work = Work(both, points, cells, positions, memory << 20)
    values = both.values(work.outputs, cells, positions, progress)
    method = {
        "kind": PatchResult.kind,
        "description": DIRECTIONS[direction],
        "points": points.text,
        "sources": points.described(),
        "axis": "group" if together else points.axis,
        "positions": plain_positions(positions),
        "n_controls": n_controls,
        COST: work.cost(),
    }
    seconds = round(time.monotonic() - clock, 3)
    run = both.run_info(method, proof, measured.notes, seed, command=command, started=started, seconds=seconds)
    return PatchResult(
        run, cells, prompt_records(model, both.pairs), values.clean, values.corrupt, values.cells, controls,
        (*both.found.drops, *both.pairs.drops),
    )  # fmt: skip


def _measured(
    both: BothRuns,
    points: Points,
    heads: str | HeadLike | Iterable[HeadLike],
    layers: Sequence[int] | None,
    n_controls: int,
    together: bool,
    seed: int,
) -> Measured:
    """Units that were asked for, and their controls."""
    model = both.model
    if points.axis == "layer":
        if heads != "all" or together:
            raise InterpError("E205", f"{points.text} has no heads", fix="choose layers= instead")
        return Measured.layers(range(model.n_layers) if layers is None else checked_layers(layers, model), points.text)
    if layers is not None:
        raise InterpError("E205", f"{points.text} is patched by heads", fix="choose heads='L3H*' instead of layers=")
    chosen = parse_heads(heads, model.heads)
    if together:
        found = Measured.group(both.shared, chosen, n_controls, seed)
        shared = ("Keys and values are patched for all query heads that share them.",)
        return replace(found, notes=(*found.notes, *shared)) if points.axis == "kv_head" else found
    if points.axis == "kv_head":
        return Measured.kv_heads(both.shared, chosen, n_controls)
    return Measured.heads(both.shared, chosen, n_controls)


def checked_layers(layers: Sequence[int], model: HookedModel) -> Sequence[int]:
    """The layers themselves.

    Raises:
        InterpError: E203 a layer that the model does not have, or none at all.
    """
    wrong = [layer for layer in layers if not 0 <= layer < model.n_layers]
    if wrong or not len(layers):
        what = f"layer {wrong[0]} does not exist" if wrong else "no layer named"
        raise InterpError("E203", what, fix=f"layers are 0 to {model.n_layers - 1}")
    return sorted(set(layers))


@dataclass(frozen=True, eq=False)
class Work:
    """Patched runs, batch by batch.

    Attributes:
        budget: bytes that a run of the engine may hold.
        plans: of the batches that ran.
    """

    both: BothRuns
    points: Points
    cells: tuple[Cell, ...]
    positions: Positions
    budget: int
    plans: list[Plan] = field(default_factory=list)

    def outputs(
        self, base: Batch, source: Batch, start: int, stop: int, columns: Int[Tensor, " column"] | None
    ) -> Outputs:
        """What the metric sees of every cell in one batch."""
        model, read_at = self.both.model, self.both.shared.question.read_at[start:stop]
        layers = sorted({head.layer for cell in self.cells for head in cell.unit.heads} or self._layers)
        sides = dict(zip(self.both.names, (base, source), strict=True))
        references = self.points.references(model, sides, layers, start, stop)
        variants = [self.points.variant(model, cell, self.positions, references) for cell in self.cells]
        engine = Rerun(model, base, variants, read_at, columns=columns)
        plan = engine.plan(budget=self.budget)
        self.plans.append(plan)
        for chunk in plan.chunks:
            yield chunk.variants, engine.run(chunk), engine.clean

    @property
    def _layers(self) -> set[int]:
        return {cell.unit.layer for cell in self.cells if cell.unit.layer is not None}

    def cost(self) -> dict[str, Any]:
        """How the numbers were computed, over all batches."""
        routes: dict[str, int] = {}
        for plan in self.plans:
            for route, count in plan.routes.items():
                routes[route] = routes.get(route, 0) + count
        return {
            "routes": routes,
            "reasons": sorted({reason for plan in self.plans for reason in plan.reasons}),
            "flops": sum(plan.flops for plan in self.plans),
            "naive_flops": sum(plan.naive_flops for plan in self.plans),
            "peak_bytes": max(plan.peak for plan in self.plans),
        }
