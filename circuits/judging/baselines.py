"""Circuits that say nothing of the mechanism, of the same actual size as one that does: what a curve is held against.

Pruning leaves less of a circuit than was asked for, and much less of a random one. So circuits are compared at the edges
that they have after it: edges are taken in the order of a ranking until pruning leaves as many as wanted; where the last
one connects too many at once, the lowest ranked are given back as long as what is left holds together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int

from interp.circuits.edges.attribution import Contrast
from interp.circuits.graph.graph import Edges, Graph, Scores
from interp.circuits.judging.selection import strengths

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Order = Int[np.ndarray, " edge"]
"""Numbers of all edges, in the order of `Graph.labels`, best first."""


def ranked(graph: Graph, scores: Scores, *, absolute: bool = True) -> Order:
    """Edges by their score; equal ones stand in the order of the graph (E206, E207)."""
    return np.argsort(-strengths(graph, scores, absolute=absolute), kind="stable")


def shuffled(graph: Graph, rng: np.random.Generator) -> Order:
    """Edges in random order."""
    return rng.permutation(graph.n_edges)


def shuffled_within(graph: Graph, scores: Scores, rng: np.random.Generator, *, absolute: bool = True) -> Order:
    """Edges by scores that were permuted among readers of one class: place, layer and part (q, k, v, mlp, logits)."""
    values = strengths(graph, scores, absolute=absolute)
    places, _, readers = np.nonzero(graph.full)
    classes = [(graph.readers[reader].layer, graph.readers[reader].part) for reader in range(len(graph.readers))]
    numbers = {one: index for index, one in enumerate(dict.fromkeys(classes))}
    group = places * len(numbers) + np.array([numbers[one] for one in classes])[readers]
    for one in np.unique(group):
        members = np.flatnonzero(group == one)
        values[members] = values[rng.permutation(members)]
    return np.argsort(-values, kind="stable")


def magnitude(contrasts: Sequence[Contrast]) -> Scores:
    """How large what each edge carries is, without any gradient: the norm of the writer's difference between clean and
    what stands in, summed over the positions of a class, mean over prompts.

    All edges of a writer at one place carry the same.
    """
    count = sum(len(contrast.question.read_at) for contrast in contrasts)
    total = np.sum([_norms(contrast) for contrast in contrasts], axis=0)
    return np.where(contrasts[0].flow.graph.full, (total / count)[:, :, None], 0.0)


@torch.no_grad()
def _norms(contrast: Contrast) -> np.ndarray:
    """Summed over prompts [place writer]; padding does not count."""
    mask, n = contrast.question.batch.mask, contrast.n_places
    columns = contrast.flow.columns(contrast.clean.minus(contrast.ablated))
    norms = torch.cat([column.norm(dim=-1) for column in columns], 2)
    if mask is not None:
        norms = norms * mask.to(norms.device)[:, :, None]
    if contrast.place_of is None:
        return norms.sum((0, 1))[None].double().cpu().numpy()
    where = torch.nn.functional.one_hot(contrast.place_of, n).to(norms.dtype)
    return torch.einsum("bpc,bpw->cw", where, norms).double().cpu().numpy()


@contextmanager
def permuted_heads(model: HookedModel, seed: int = 0) -> Iterator[None]:
    """Inside the block every layer's heads write through the output weights of another of them; weights are put back.

    A method that reads the mechanism must find another circuit there. A layer with one head stays as it is.
    """
    rng, kept = np.random.default_rng([seed, 4]), []
    try:
        for layer, n in enumerate(model.heads[""]):
            module: Any = model.adapter.block(layer).out  # type: ignore[attr-defined]
            weight = module.weight.data
            kept.append((weight, weight.clone()))
            order = torch.from_numpy(_moved(n, rng)).to(weight.device)
            is_conv = type(module).__name__ == "Conv1D"
            by_head = (weight if is_conv else weight.T).reshape(n, -1, weight.shape[1 if is_conv else 0])
            mixed = by_head[order].flatten(0, 1)
            weight.copy_(mixed if is_conv else mixed.T)
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)


def _moved(n: int, rng: np.random.Generator) -> np.ndarray:
    """A random cycle: every head gets the weights of another one."""
    order, found = rng.permutation(n), np.empty(n, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found


def of_size(graph: Graph, order: Order, n: int) -> Edges:
    """The circuit that taking edges in this order leads to, of n edges after pruning, or the nearest number that holds
    together (never fewer than n where the graph has them)."""
    where = np.stack(np.nonzero(graph.full), 1)[order]

    def first(count: int) -> Edges:
        edges = graph.none
        edges[tuple(where[:count].T)] = True
        return graph.pruned(edges)

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if first(middle).sum() >= n else (middle + 1, high)
    return _peeled(graph, first(low), where, n)


def _peeled(graph: Graph, edges: Edges, where: Int[np.ndarray, "edge axis"], n: int) -> Edges:
    """Edges given back, lowest ranked first, while n or more are left."""
    for place, writer, reader in where[::-1]:
        if edges.sum() <= n:
            break
        if edges[place, writer, reader]:
            fewer = edges.copy()
            fewer[place, writer, reader] = False
            fewer = graph.pruned(fewer)
            edges = fewer if fewer.sum() >= n else edges
    return edges


Draw = Callable[[np.random.Generator], Order]


def drawn(graph: Graph, draw: Draw, sizes: Sequence[int], n: int, seed: int) -> list[list[Edges]]:
    """n circuits of each size; those of one draw hold each other but for what was given back."""
    rng = np.random.default_rng([seed, 5])
    orders = [draw(rng) for _ in range(n)]
    return [[of_size(graph, order, size) for size in sizes] for order in orders]
