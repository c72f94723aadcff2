"""Exact effects of single edges: one edge is out, everything after its reader is computed anew.

Score = metric(all edges in) - metric(this edge out), positive where the edge helps. A run begins at the layer of the
reader, and edges of one layer's readers ride on the batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from interp.circuits.edges.attribution import Attribution, Contrast
from interp.circuits.edges.masked import MaskedRuns, together
from interp.circuits.edges.masked_run import MaskedRun, State
from interp.circuits.graph.graph import Graph

Progress = Callable[[int, int], None]
Edge = tuple[int, int, int]


@torch.no_grad()
def exact(contrast: Contrast, *, progress: Progress | None = None) -> Attribution:
    """The effect of every edge on every prompt.

    Args:
        progress: called with (edges done, all edges).
    """
    graph, runs = contrast.flow.graph, MaskedRuns(contrast)
    full = torch.from_numpy(graph.full).to(contrast.flow.model.device, torch.float32)
    first = MaskedRun(runs, full[None], keep=True)
    whole = runs.measured(first.run())[0]
    scores = torch.zeros((len(whole), *full.shape), dtype=whole.dtype, device=whole.device)
    most = together(contrast)
    done = 0
    for begin, edges in by_layer(graph):
        for start in range(0, len(edges), most):
            some = edges[start : start + most]
            values = without(runs, full, some, begin, first.state)
            for edge, value in zip(some, values, strict=True):
                scores[:, *edge] = whole - value
            done += len(some)
            if progress is not None:
                progress(done, graph.n_edges)
    return Attribution(scores, runs.forwards, {1.0: whole})


def by_layer(graph: Graph) -> Iterator[tuple[int, list[Edge]]]:
    """Edges by the layer at which a run without them begins."""
    n = len(graph.layers)
    for layer in range(n + 1):
        readers = [index for index, one in enumerate(graph.readers) if one.layer % (n + 1) == layer]
        yield (
            layer,
            [
                (place, writer, reader)
                for reader in readers
                for place in range(len(graph.places))
                for writer in range(graph.seen[reader])
            ],
        )


def without(runs: MaskedRuns, circuit: Tensor, edges: list[Edge], begin: int, after: State) -> Tensor:
    """The metric of a circuit without each of these edges, by itself [edge batch]."""
    masks = circuit.repeat(len(edges), 1, 1, 1)
    for row, edge in enumerate(edges):
        masks[row, *edge] = 0
    return runs.measured(MaskedRun(runs, masks, begin=begin, after=after).run())
