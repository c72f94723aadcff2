"""Where what a reader reads can still matter: position by position, for what is left of a circuit."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool

from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.graph.graph import Edges, Graph
from interp.hooks.rerun.engine import is_causal

At = Bool[np.ndarray, "batch pos"]
Needs = Bool[np.ndarray, "reader batch pos"]


def reads_position(runs: MaskedRuns) -> bool:
    """Whether the metric reads one position of each prompt, and attention looks back alone."""
    question, calls = runs.contrast.question, runs.recorded.calls
    is_text = "input_ids" in question.batch.inputs and bool((question.read_at >= 0).all())
    layers = set(range(runs.flow.n_layers))
    return is_text and set(calls) == layers and all(is_causal(call.mask) for call in calls.values())


def read_positions(runs: MaskedRuns) -> tuple[At, bool]:
    """Where the metric reads, and whether attention looks back alone; every position where either is not known."""
    batch, width = next(iter(runs.contrast.clean.embed.values())).shape[:2]
    if not reads_position(runs):
        return np.ones((batch, width), dtype=bool), False
    read = np.zeros((batch, width), dtype=bool)
    read[np.arange(batch), runs.contrast.question.read_at.cpu().numpy()] = True
    return read, True


def place_masks(runs: MaskedRuns) -> Bool[np.ndarray, "place batch pos"]:
    """Which positions belong to each class."""
    contrast = runs.contrast
    batch, width = next(iter(contrast.clean.embed.values())).shape[:2]
    if contrast.place_of is None:
        return np.ones((1, batch, width), dtype=bool)
    given = contrast.place_of.cpu().numpy()
    return np.broadcast_to(given, (batch, width))[None] == np.arange(contrast.n_places)[:, None, None]


def needs(graph: Graph, circuit: Edges, read: At, at_place: Bool[np.ndarray, "place batch pos"], back: bool) -> Needs:
    """Where each reader's input reaches the metric through a circuit.

    An MLP and a query are needed where what is made of them is read; keys and values wherever a query that is needed
    may look. The rest of what a reader reads changes nothing, whatever it is. Heads that a norm joins scale each
    other, so that each is needed where any is.

    Args:
        read: where the metric reads.
        at_place: which positions belong to each class.
        back: attention looks back alone.
    """
    found = np.zeros((len(graph.readers), *read.shape), dtype=bool)
    found[-1] = read
    for parts, here, moving in reversed(graph.together):
        wanted = np.zeros_like(read)
        for place, at in enumerate(at_place):
            wanted |= found[circuit[place, parts].any(0)].any(0) & at
        found[here] |= wanted
        found[moving] |= _visible(wanted, back)
    return found


def _visible(queries: At, back: bool) -> At:
    """Positions that some of these queries may look at."""
    if not back:
        return np.broadcast_to(queries.any(1, keepdims=True), queries.shape)
    return np.flip(np.maximum.accumulate(np.flip(queries, 1), 1), 1)


def carried(runs: MaskedRuns) -> Bool[np.ndarray, "batch pos writer"]:
    """Where a writer's clean and ablated values differ at all."""
    difference = runs.contrast.clean.minus(runs.contrast.ablated)
    found = [(part != 0).any(-1) for part in runs.flow.columns(difference)]
    return torch.cat(found, 2).cpu().numpy()
