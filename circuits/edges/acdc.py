"""ACDC: edges are tried one after the other from the output to the input, and stay out where little is lost.

Conmy et al. 2023 (arXiv 2304.14997). For each reader, last first, and each edge into it: measure the metric without this
edge in the circuit as it is by now; where it loses less than tau the edge stays out. Parts that nobody reads any more lose
what they read unmeasured. Edges into one reader are tried latest writer first ('reverse', as the paper's code does by
default), or earliest first ('forward', as its command line does).

The decisions are those of one forward an edge, reached with less:

- In this order everything before a reader is as in the clean run, so a run begins there, and follows only edges that are
  still in (`downstream.py`); where a model does not allow that, a run begins at the reader's layer.
- Several edges into one reader run together; what follows a wrong prediction runs again, and is counted (`search.py`).
- Nothing is lost, and nothing is run, where what an edge carries is the same clean and ablated at all positions where
  its reader matters (`needs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from interp.circuits.edges.attribution import CLEAN, Attribution, Contrast, RowScores, along_inputs
from interp.circuits.edges.downstream import Downstream
from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.needs import reads_position
from interp.circuits.edges.search import Order, Search, Skipping
from interp.circuits.graph.graph import Edges, Scores
from interp.hooks.probe import TOLERANCE
from interp.hooks.rerun.engine import TEXT
from interp.kernels.errors import InterpError


@dataclass(frozen=True, eq=False)
class Found:
    """What ACDC found.

    Attributes:
        circuit: edges that stay.
        losses: what the metric lost when an edge was tried; 0 where it was not.
        measured: edges that were.
        value: the metric of the circuit, mean over prompts; `whole` that of the whole model.
        forwards: cost in forwards of these prompts; see `Downstream` and `MaskedRuns` for what counts how much.
        trials: circuits that were run, those included that were run in vain.
        by_parts: whether single parts were followed; not where the metric of the whole circuit then comes out otherwise.
        skipped, audited, differed: edges out by their score alone; those of them that were measured; those of these
            whose measurement says that they stay.
    """

    circuit: Edges
    losses: Scores
    measured: Edges
    whole: float
    value: float
    forwards: float
    trials: int
    by_parts: bool = True
    skipped: int = 0
    audited: int = 0
    differed: int = 0


def acdc(
    contrast: Contrast,
    tau: float,
    *,
    order: Order = "reverse",
    absolute: bool = False,
    predicted: Scores | None = None,
    skipping: Skipping | None = None,
    by_parts: bool | None = None,
) -> Found:
    """The circuit that ACDC leaves.

    Args:
        tau: of the metric's unit; an edge goes where the mean over prompts loses less.
        absolute: an edge also stays where the metric gains tau or more without it.
        predicted: scores that tell which edges will go; made by EAP where None, and counted.
        skipping: leave edges with small `predicted` unmeasured; None measures all.
        by_parts: follow single parts; None where the model allows it, False begins at layers.

    Raises:
        InterpError: E205 tau is not positive, or no such order.
    """
    if not tau > 0 or order not in ("reverse", "forward"):
        raise InterpError("E205", f"tau {tau}, order {order!r}", fix="tau > 0, and order 'reverse' or 'forward'")
    runs = MaskedRuns(contrast)
    predicted = _guessed(runs) if predicted is None else predicted
    follows = can_follow(runs) if by_parts is None else by_parts
    with torch.no_grad():
        search = _searched(Search(runs, tau, order, absolute, predicted, skipping), follows)
        if follows and not _holds(search):
            follows, before = False, search
            search = _searched(Search(runs, tau, order, absolute, predicted, skipping), follows)
            search.trials += before.trials
    return Found(
        search.circuit, search.losses, search.measured, search.whole, float(search.value.mean()), runs.forwards,
        search.trials, follows, search.skipped, len(search.audited), search.differed,
    )  # fmt: skip


def _searched(search: Search, follows: bool) -> Search:
    search.parts = Downstream(search.runs) if follows else None
    search.run()
    return search


def _holds(search: Search) -> bool:
    """Whether a run of the whole circuit gives the metric that following its parts gave."""
    value = float(search.runs.values([search.circuit]).mean())
    allowed = TOLERANCE[search.runs.flow.model.dtype] * max(1.0, abs(search.whole))
    return abs(value - float(search.value.mean())) <= allowed


def _guessed(runs: MaskedRuns) -> Scores:
    """EAP, or 0, which says that all edges will go, where the metric has no gradient."""
    try:
        guesses = runs.by_parts(_eap)
    except InterpError as error:
        if error.code != "E407":
            raise
        return np.zeros(runs.flow.graph.full.shape)
    return torch.cat(guesses).mean(0).double().cpu().numpy()


def _eap(runs: MaskedRuns) -> RowScores:
    guess = along_inputs(runs.contrast, CLEAN)
    runs.forwards += guess.forwards
    return guess.scores


def can_follow(runs: MaskedRuns) -> bool:
    """Whether single parts can be followed: texts, read at one position, by attention that looks back, in a model that may
    begin at a layer."""
    is_text = set(runs.contrast.question.batch.inputs) <= TEXT
    return is_text and runs.can_restart and runs.flow.model.adapter.output_name == "logits" and reads_position(runs)


def by_losses(contrast: Contrast, tau: float) -> Attribution:
    """Scores: what the metric lost when an edge was tried, in the circuit as it was then; 0 where it was not.

    One row, of the mean over prompts, which decides.
    """
    found = acdc(contrast, tau)
    return Attribution(torch.from_numpy(found.losses)[None].float(), found.forwards, {})


def by_thresholds(contrast: Contrast, taus: Sequence[float]) -> Attribution:
    """Scores: the largest tau at which an edge stays, as the paper ranks edges; 0 where it goes at all of them.

    One row, of the mean over prompts. Losses at one tau predict the decisions at the next.
    """
    scores, forwards = np.zeros(contrast.flow.graph.full.shape), 0.0
    predicted: Scores | None = None
    for tau in sorted(taus):
        found = acdc(contrast, tau, predicted=predicted)
        scores[found.circuit] = tau
        predicted, forwards = found.losses, forwards + found.forwards
    return Attribution(torch.from_numpy(scores)[None].float(), forwards, {})
