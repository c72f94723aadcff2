"""Tracing by sparse attention decomposition: why a head looks where it looks, from one forward and no patching.

The score of a head for a pair of tokens is `x_dest Omega x_src` of what its projections read at both, so it is a sum over
the singular triples of Omega, few of which matter for one pair. What an earlier part wrote at one of the two tokens,
along these few directions, is its share of the score, and parts that are heads are traced further from there (Franco and
Crovella 2024, "Sparse Attention Decomposition Applied to Circuit Tracing", arXiv 2410.00340).

Beyond the paper: rotary positions stand inside Omega, which then belongs to one pair of positions; keys may be shared;
embeddings and MLPs have their share, as leaves, so that heads of layer 0 are traced too. Biases belong to no part. What
a head moves once it looks is not traced, and nothing leads to the logits: edges into values, MLPs and logits score 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.graph.flow import Flow, Writes
from interp.circuits.graph.graph import Graph, Scores
from interp.circuits.readout import Norm, is_close, refused
from interp.circuits.triples import ScoreMap, Triples, shortest_prefix
from interp.circuits.writes import PATTERN
from interp.hooks.batch import Batch
from interp.hooks.capture import Cache
from interp.hooks.names import HeadId, check_head, point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Q, K, ROT_Q, ROT_K, SCORES = (f"attn.hook_{kind}" for kind in ("q", "k", "rot_q", "rot_k", "attn_scores"))
WEIGHTINGS = ("score", "root")


@dataclass(frozen=True)
class TraceSettings:
    """What counts; the defaults are those of the paper, but for `weighting`.

    Attributes:
        fires_at: a head looks from one token at another where its pattern is at least this, and the score not negative.
        share: directions are kept, largest contribution first, until they make up more than this share of the score. At
            1 the negative ones are left out.
        covered: parts are kept, largest first, until they make up more than this share of what all of them give along
            the kept directions.
        weighting: what a part has along a direction counts 'score', by what that adds to the score (what stands at the
            other token as it was); or 'root', by the root of the singular value and the direction's sign, as published.
    """

    fires_at: float = 0.5
    share: float = 1.0
    covered: float = 0.7
    weighting: str = "score"

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise InterpError("E205", f"no weighting {self.weighting!r}", fix=f"one of {', '.join(WEIGHTINGS)}")


@dataclass(frozen=True, order=True)
class Firing:
    """In one prompt of a batch, one head that looks from token `dest` at token `src`."""

    prompt: int
    layer: int
    head: int
    dest: int
    src: int


@dataclass(frozen=True)
class TracedEdge:
    """What one part gives to a head's looking where it looks.

    Attributes:
        writer, reader: labels of the graph; the reader is the head's queries or keys.
        firing: what is explained.
        position: of the token at which the part wrote: the firing's `dest` for queries, `src` for keys.
        weight: see `TraceSettings.weighting`.
    """

    writer: str
    reader: str
    firing: Firing
    position: int
    weight: float


@dataclass(frozen=True)
class Trace:
    """Made by `Tracer`.

    Attributes:
        edges: late layers first.
        silent: roots that were asked for and do not fire.
    """

    edges: tuple[TracedEdge, ...]
    silent: tuple[Firing, ...] = ()

    def edge_scores(
        self, graph: Graph, place_of: Int[np.ndarray, "prompt pos"] | None = None, *, prompt: int | None = None
    ) -> Scores:
        """Weights summed over firings.

        Args:
            prompt: of this prompt alone; None sums over all.
            place_of: place of each position of each prompt, -1 for none; may be left out for a graph without places.
        """
        assert place_of is not None or len(graph.places) == 1, "where the places of the graph are is not said"
        found = np.zeros(graph.full.shape)
        for edge in self.edges:
            place = 0 if place_of is None else place_of[edge.firing.prompt, edge.position]
            if place >= 0 and prompt in (None, edge.firing.prompt):
                found[place, graph.writer_index[edge.writer], graph.reader_index[edge.reader]] += edge.weight
        return found


@dataclass(frozen=True, eq=False)
class Run:
    """One batch, as it ran: activations, what was written, and layer -> where its heads fire."""

    cache: Cache
    writes: Writes
    fires: Mapping[int, Bool[Tensor, "batch head dest src"]]


@dataclass(frozen=True, eq=False)
class Tracer:
    """Traces heads of one model; made by `Tracer.of`.

    Attributes:
        norms: layer -> the norm that its projections read the stream through; None where they read it as it is.
    """

    flow: Flow
    norms: Mapping[int, Norm | None]
    settings: TraceSettings

    @classmethod
    def of(cls, model: HookedModel | Flow, settings: TraceSettings = TraceSettings()) -> Tracer:
        """Raises E403 where scores, or what heads read, are not known."""
        flow = model if isinstance(model, Flow) else Flow.of(model)
        norms: dict[int, Norm | None] = {}
        for layer, reads in flow.reads.items():
            for kind in (SCORES, PATTERN):
                flow.model.check_point(point_name(kind, layer))
            norms[layer] = (
                None
                if reads.norm is None
                else Norm.of(reads.norm, flow.model.w_out(layer).shape[-1], flow.model.device)
            )
            if reads.norm is not None and norms[layer] is None:
                raise refused(flow.model, f"what stands before attention in layer {layer} is no norm")
        return cls(flow, norms, settings)

    @torch.no_grad()
    def __call__(
        self, batch: Batch, roots: Sequence[Firing] | None = None, *, read_at: Int[Tensor, " batch"] | None = None
    ) -> Trace:
        """Trace firings back to the embeddings; holds the patterns of all layers for one batch at a time.

        Args:
            roots: what is traced; None is every firing from one token of each prompt.
            read_at: that token; None is the last one.

        Raises:
            InterpError: E403 where scores are more than products of queries and keys: soft cap, bias by distance;
                E203 no such head; E205 no such pair of tokens.
        """
        for root in roots or ():
            self._check(root, batch)
        run = self.run(batch)
        asked = list(self.looking_from(run, batch.end if read_at is None else read_at) if roots is None else roots)
        pending: dict[int, set[Firing]] = defaultdict(set)
        for root in asked:
            if run.fires[root.layer][root.prompt, root.head, root.dest, root.src]:
                pending[root.layer].add(root)
        edges: list[TracedEdge] = []
        for layer in reversed(range(self.flow.n_layers)):
            if firings := sorted(pending[layer]):
                found = list(self._edges(run, layer, firings))
                edges += found
                for earlier in self._further(run, found):
                    pending[earlier.layer].add(earlier)
        return Trace(tuple(edges), tuple(root for root in asked if root not in pending[root.layer]))

    def _check(self, root: Firing, batch: Batch) -> None:
        """Raise unless a root names a head and tokens that there are."""
        check_head(HeadId("", root.layer, root.head), self.flow.model.heads)
        width = batch.input_ids.shape[1]
        if not (0 <= root.prompt < batch.size and 0 <= root.src <= root.dest < width):
            raise InterpError("E205", f"no such pair of tokens in {batch.size} prompts of {width}", where=str(root))

    @torch.no_grad()
    def run(self, batch: Batch) -> Run:
        """One forward; first tokens, on which heads rest that have nothing to look for, do not count as looked at."""
        known = self.flow.model.adapter.available
        kinds = [name for layer in range(self.flow.n_layers) for kind in (Q, K, ROT_Q, ROT_K, SCORES, PATTERN)
                 if (name := point_name(kind, layer)) in known]  # fmt: skip
        _, cache = self.flow.model.run_with_cache(batch, [*self.flow.points, *kinds])
        fires = {}
        for layer in range(self.flow.n_layers):
            looks = cache[point_name(PATTERN, layer)] >= self.settings.fires_at
            fires[layer] = looks & (cache[point_name(SCORES, layer)] >= 0)
            if batch.mask is not None:
                fires[layer] &= batch.mask[:, None, :, None]
                fires[layer][torch.arange(batch.size), :, :, batch.first] = False
        return Run(cache, self.flow.writes(cache), fires)

    def looking_from(self, run: Run, positions: Int[Tensor, " batch"]) -> Iterator[Firing]:
        """Every firing from one token of each prompt."""
        for layer, fires in run.fires.items():
            for row, head, src in fires[torch.arange(len(fires)), :, positions].nonzero().tolist():
                yield Firing(row, layer, head, int(positions[row]), src)

    @torch.no_grad()
    def triples(self, run: Run, layer: int, firings: Sequence[Firing]) -> Triples:
        """The scores of firings of one layer as sums over singular triples.

        Raises:
            InterpError: E403 where scores are more than products of queries and keys (see `Tracer.__call__`).
        """
        model, cache = self.flow.model, run.cache
        before, scores = {side: cache[side, layer] for side in "qk"}, cache["attn_scores", layer]
        is_turned = point_name(ROT_Q, layer) in cache
        after = {side: cache[f"rot_{side}", layer] for side in "qk"} if is_turned else before
        attn = model.adapter.block(layer).attn  # type: ignore[attr-defined]
        map_ = ScoreMap.of(self.flow.reads[layer], attn, before, after, scores)
        if map_ is None:
            raise refused(model, f"the scores of layer {layer} are not only products of its queries and keys")
        rows, heads, dest, src = (_column(firings, name) for name in ("prompt", "head", "dest", "src"))
        kv_heads = heads * model.kv_heads[""][layer] // model.heads[""][layer]
        read = self.flow.reads[layer].normed(cache["resid_pre", layer])
        found = map_.triples(read, rows, {"q": heads, "k": kv_heads}, {"q": dest, "k": src})
        if not is_close(found.values.sum(1), scores[rows, heads, dest, src], model.dtype):
            raise refused(model, f"the scores of layer {layer} are not those that its weights give")
        return found

    def _edges(self, run: Run, layer: int, firings: Sequence[Firing]) -> Iterator[TracedEdge]:
        """What earlier parts give to firings of one layer."""
        graph, triples, rows = self.flow.graph, self.triples(run, layer, firings), _column(firings, "prompt")
        for number, (side, name) in enumerate((("q", "dest"), ("k", "src"))):
            at = _column(firings, name)
            reading = triples.reading(side, self.settings.share, is_root=self.settings.weighting == "root")
            weights = self._weights(run, layer, rows, at, reading[:, :-1])
            total = weights.sum(1)
            kept = shortest_prefix(weights, self.settings.covered * total) & (total > 0)[:, None]
            for index, writer in kept.nonzero().tolist():
                firing = firings[index]
                part = graph.writers[graph.writer_index[HeadId("", layer, firing.head).label]]
                reader = graph.readers[graph.inputs_of(part)[number]].label
                weight = float(weights[index, writer])
                yield TracedEdge(graph.writers[writer].label, reader, firing, int(at[index]), weight)

    def _weights(
        self, run: Run, layer: int, rows: Tensor, at: Tensor, reading: Float[Tensor, "firing d_model"]
    ) -> Float[Tensor, "firing writer"]:
        """What each part before a layer wrote at one position a firing, along what the layer reads there."""
        if (norm := self.norms[layer]) is not None:
            stream = run.cache["resid_pre", layer][rows, at]
            given = self.flow.reads[layer].normed(stream).double()
            reading = norm.fold(reading, norm.scale(stream.double(), given))
        here = run.writes.map(lambda value: value[rows, at][:, None])
        n = int(self.flow.graph.seen[self.flow.graph.reader_index[f"L{layer}H0.q"]])
        found: list[Tensor] = []
        for block in self.flow.columns(here):
            if sum(one.shape[1] for one in found) == n:
                break
            found.append(einsum(block[:, 0].double(), reading, "firing writer d, firing d -> firing writer"))
        return torch.cat(found, 1)

    def _further(self, run: Run, edges: Iterable[TracedEdge]) -> Iterator[Firing]:
        """Where heads that gave something look from the token at which they gave it."""
        for edge in edges:
            part = self.flow.graph.writers[self.flow.graph.writer_index[edge.writer]]
            if part.layer is not None and part.head is not None:
                looks = run.fires[part.layer][edge.firing.prompt, part.head, edge.position]
                for src in looks.nonzero()[:, 0].tolist():
                    yield Firing(edge.firing.prompt, part.layer, part.head, edge.position, src)


def _column(firings: Sequence[Firing], name: str) -> Int[Tensor, " firing"]:
    return torch.tensor([getattr(one, name) for one in firings])
