"""Subspaces of the stream that an edge may carry something in: what its writer writes, and how its reader reads it.

What is written are rows A [row d_model]: the writer's differences between clean and ablated on some prompts, or what a
head can write at all (W_O). What is read are columns R [d_model read]: the weights of queries, keys or values through the
norm before them; what a score reads given what stands at the other token; or gradients of the metric at the reader. The
singular value decomposition of A R orders directions of what is written by how much is read along them. Norms are linear here, at the scale
of their gain alone; the run that proves a subspace computes them anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.edges.attribution import Contrast
from interp.circuits.edges.exact import Edge
from interp.circuits.edges.gradients import Gradients
from interp.circuits.graph.flow import Flow, Stream
from interp.circuits.receivers import Receiver
from interp.circuits.tracing import Firing, Run, Tracer, TraceSettings
from interp.circuits.understanding.directions import SMALL, Basis, Rows, compact, spanned
from interp.circuits.writes import PRE, Part
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError, suggest

WRITTEN = ("differences", "weights")
READ = ("weights", "scores", "gradients")
Columns = Float[Tensor, "d_model read"]

POSITIONS = 16
"""Of all prompts, whose gradients are laid out at once."""

PAIRS = 1024
"""Pairs of tokens whose scores are taken apart, at most; and at once."""
AT_ONCE = 64


def written(contrast: Contrast, edge: Edge, how: str) -> Rows:
    """What the writer of an edge writes, in float64.

    Args:
        how: 'differences', clean less ablated at all real tokens of the edge's place; 'weights', all that a head can
            write.

    Raises:
        InterpError: E201 no such word; E205 weights of another writer than a head.
    """
    _check(how, WRITTEN)
    flow, part = contrast.flow, contrast.flow.graph.writers[edge[1]]
    if how == "differences":
        difference = contrast.clean.minus(contrast.ablated)
        if part.kind == "head":
            assert part.layer is not None and part.head is not None
            value = flow.expand(part.layer, difference.heads[part.layer])[:, :, part.head]
        elif part.kind == "mlp":
            assert part.layer is not None
            value = difference.mlp[part.layer]
        else:
            value = difference.embed[part.label]
        return value[_counted(contrast, edge[0])].double()
    if part.kind != "head":
        what = f"{part.label} is no head, so that no matrix says what it can write"
        raise InterpError("E205", what, fix="take what it writes on the prompts: 'differences'")
    assert part.layer is not None
    rows, norm = flow.model.w_out(part.layer)[part.head].double(), flow.norms[part.layer]
    return rows if norm is None else norm.linear(rows, torch.ones_like(rows[:, :1]))


def ways_to_read(reader: Receiver) -> tuple[str, ...]:
    """What is possible for a reader, the usual one first.

    Values have weights and no score. What an MLP reads goes through its nonlinearity and what the logits read through
    the metric, so that gradients alone say what matters of it.
    """
    if reader.part in "qk":
        return "scores", "weights", "gradients"
    return ("weights", "gradients") if reader.part == "v" else ("gradients",)


def read(contrast: Contrast, edge: Edge, how: str, fires_at: float = 0.5) -> Columns:
    """How the reader of an edge reads the stream, in float64.

    Args:
        how: in `ways_to_read` of the reader.
        fires_at: for 'scores', pairs of tokens count where the pattern is at least this.

    Raises:
        InterpError: E201 no such word; E205 not possible for this reader, or no pair of tokens; E403 scores that are more
            than products of queries and keys; E407 a metric without gradient.
    """
    _check(how, READ)
    flow, reader = contrast.flow, contrast.flow.graph.readers[edge[2]]
    if how not in (possible := ways_to_read(reader)):
        raise InterpError("E205", f"no {how} say how {reader.label} reads", fix=f"use {' or '.join(possible)}")
    if how == "gradients":
        return _gradients(contrast, edge)
    if how == "weights":
        first = next(index for index, one in enumerate(flow.graph.readers) if one.layer == reader.layer)
        return flow.entrances[reader.layer].weights[edge[2] - first].detach().double().T
    return _score_readings(contrast, reader, fires_at)


def ordered(rows: Rows, columns: Columns) -> Basis:
    """Directions of what is written: those that are read, most first, then the rest, largest first.

    What a reader reads along directions that nobody writes is left out of them. All together hold every row, so that an
    edge that is out within them is out.
    """
    span = spanned(rows)
    columns = span @ compact(columns.T @ span).T
    _, sizes, right = torch.linalg.svd(compact(rows) @ columns, full_matrices=False)
    kept = sizes > SMALL * sizes.max().clamp(min=1e-30)
    found = torch.linalg.qr(columns @ right[kept].T).Q
    return torch.cat([found, spanned(rows - rows @ found @ found.T, rows)], 1)


def _check(word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise InterpError("E201", f"no {word!r}", fix=suggest(word, known))


def _counted(contrast: Contrast, place: int) -> Bool[Tensor, "batch pos"]:
    """Real tokens of a place."""
    mask = contrast.question.batch.mask
    assert mask is not None, "a graph has writers at tokens"
    return mask if contrast.place_of is None else mask & (contrast.place_of == place)


def _gradients(contrast: Contrast, edge: Edge) -> Columns:
    """Gradients of the metric at what a reader reads, in the clean and in the ablated run: one may be flat."""
    place, _, reader = edge
    found = []
    for share in (1.0, 0.0):
        pull = contrast.gradients(share)
        starts = range(0, pull.logits.shape[1], POSITIONS)
        some = [_pulled(pull, slice(start, start + POSITIONS), reader) for start in starts]
        found.append(torch.cat(some, 1)[_counted(contrast, place)].double())
    return torch.cat(found).T


def _pulled(pull: Gradients, rows: slice, reader: int) -> Stream:
    """Gradients at one reader, at some positions."""
    return next(one[:, :, reader - readers.start] for readers, one in pull.at(rows) if reader < readers.stop)


@torch.no_grad()
def _score_readings(contrast: Contrast, reader: Receiver, fires_at: float) -> Columns:
    """For pairs of tokens of which one looks at the other: the vector whose product with the stream is the score."""
    flow, side, layer = contrast.flow, reader.part, reader.layer
    tracer = Tracer.of(flow, TraceSettings(fires_at=fires_at))
    run = tracer.run(contrast.question.batch)
    behind = [part.head for part in flow.graph.writers
              if part.kind == "head" and part.layer == layer and reader.label in _inputs(flow, part)]  # fmt: skip
    pairs = [(row, behind[head], dest, src) for row, head, dest, src in run.fires[layer][:, behind].nonzero().tolist()]
    if not pairs:
        what = f"no token looks at another one with {reader.label} by {fires_at} or more"
        raise InterpError("E205", what, fix="lower fires_at, or read by 'weights'")
    firings = [Firing(row, layer, head, dest, src) for row, head, dest, src in pairs[:: -(-len(pairs) // PAIRS)]]
    found = [_folded(tracer, run, side, firings[start : start + AT_ONCE]) for start in range(0, len(firings), AT_ONCE)]
    return torch.cat(found).T


def _inputs(flow: Flow, part: Part) -> list[str]:
    return [flow.graph.readers[index].label for index in flow.graph.inputs_of(part)]


def _folded(tracer: Tracer, run: Run, side: str, firings: Sequence[Firing]) -> Rows:
    """Readings of some pairs, through the norm before the projection at the scale of its run."""
    layer, triples = firings[0].layer, tracer.triples(run, firings[0].layer, firings)
    other = "k" if side == "q" else "q"
    reading = einsum(
        triples.directions[side], triples.sizes * triples.along[other], "pair d triple, pair triple -> pair d"
    )
    reading = reading[:, :-1]
    if (norm := tracer.norms[layer]) is None:
        return reading
    at = [(one.prompt, one.dest if side == "q" else one.src) for one in firings]
    rows, positions = torch.tensor(at).T
    stream = run.cache[point_name(PRE, layer)][rows, positions]
    given = tracer.flow.reads[layer].normed(stream).double()
    return norm.fold(reading, norm.scale(stream.double(), given))
