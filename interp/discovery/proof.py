"""Proof that edges are taken out as they should be, before anything is claimed with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.posed import Posed
from interp.circuits.edges.replacements import StandIn
from interp.circuits.graph.flow import Flow
from interp.hooks.naive import plain_outputs
from interp.hooks.probe import TOLERANCE
from interp.kernels.errors import InterpError

PROMPTS = 4


@dataclass(frozen=True)
class ProofRow:
    """One run whose outcome is known.

    Attributes:
        what: which edges are in.
        against: what it must give.
        difference: largest one of the output.
        allowed: rounding.
    """

    what: str
    against: str
    difference: float
    allowed: float


@torch.no_grad()
def prove(flow: Flow, posed: Posed, stand: StandIn) -> list[ProofRow]:
    """With all edges in, a masked run is the model; with none, under resampling, it is the corrupt run.

    Raises:
        InterpError: E404 where it is not.
    """
    some = posed.rows(0, min(PROMPTS, len(posed)))
    graph, runs = flow.graph, MaskedRuns(stand.contrast(flow, some))
    masks = torch.stack([torch.from_numpy(edges).float() for edges in (graph.full, graph.none)])
    outputs = runs.outputs(masks.to(flow.model.device))
    read_at = some.question.read_at
    whole = plain_outputs(flow.model, some.question.batch, read_at, len(some))
    rows = [_row("all edges in", "the untouched model", outputs[0], whole, flow)]
    if stand.name == "resample" and some.corrupt is not None:
        corrupt = plain_outputs(flow.model, some.corrupt, read_at, len(some))
        rows.append(_row("no edge in", "the untouched model on the corrupt prompts", outputs[1], corrupt, flow))
    for row in rows:
        if not row.difference <= row.allowed:
            what = f"with {row.what}, the output differs by {row.difference:.1e} from that of {row.against}"
            raise InterpError("E404", what, where=flow.model.name, fix="please report this architecture")
    return rows


def _row(what: str, against: str, output: torch.Tensor, wanted: torch.Tensor, flow: Flow) -> ProofRow:
    difference = float((output.cpu().double() - wanted.cpu().double()).abs().max())
    return ProofRow(what, against, difference, TOLERANCE[flow.model.dtype] * max(1.0, float(wanted.abs().max())))


def as_record(rows: list[ProofRow], flow: Flow) -> dict[str, Any]:
    """What a run keeps of it."""
    return {
        "edges": [asdict(row) for row in rows],
        "sum_of_writers": flow.error,
        "fired": "once a forward, checked at every forward",
    }
