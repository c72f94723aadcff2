"""What a circuit discovery will cost, told before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.circuits.edges.methods import Settings
from interp.circuits.edges.plan import EdgePlan, plan
from interp.circuits.edges.shape import Shape
from interp.circuits.graph.flow import Flow
from interp.discovery.choice import Choice
from interp.discovery.request import Request
from interp.discovery.sides import Side
from interp.hooks.metrics import Metric
from interp.tasks.base import Task
from interp.tasks.file import FileTask

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


def plan_circuit(
    model: HookedModel,
    task: Task,
    *,
    method: str = "eap-ig",
    ablation: str = "resample",
    positions: str = "none",
    metric: str | Metric | None = None,
    settings: Settings | None = None,
    batch_size: int = 32,
    budget: int | None = None,
    seed: int = 0,
    truncate: bool = False,
    first_token: bool = False,
) -> EdgePlan:
    """Forwards, operations and memory of scoring every edge; arguments as those of `interp.circuit`.

    Nothing but a few short prompts is run. What judges the circuit afterwards is not planned.

    Raises:
        InterpError: as `interp.circuit`, E603 a budget that does not hold one prompt among them.
    """
    request = Request.make(
        method, settings or Settings(seed=seed), seed, ablation=ablation, choice=Choice(size=0.1), positions=positions,
        beside=(), n_random=0, n_curve=1, checks=False, batch_size=batch_size, budget=budget,
    )  # fmt: skip
    side = Side.of(model, task, metric, ablation, positions, truncate=truncate, first_token=first_token)
    side = side.halves()[0] if isinstance(task, FileTask) else side
    flow = Flow.of(model).at_places(side.places)
    return planned(flow, side, request)


def planned(flow: Flow, side: Side, request: Request) -> EdgePlan:
    """The plan of scoring the prompts of a side (E603 a budget that is too small)."""
    together = len(side) if not request.method.by_prompt else min(request.batch_size, len(side))
    return plan(
        flow.graph, Shape.of(flow), prompts=len(side), width=int(side.pairs.clean.input_ids.shape[1]),
        method=request.method.name, settings=request.settings, paired=request.ablation == "resample",
        behind_norm=any(norm is not None for norm in flow.norms.values()), flow=flow,
        batch=together if request.budget is None else None,
        budget=None if request.budget is None else request.budget << 20,
    )  # fmt: skip
