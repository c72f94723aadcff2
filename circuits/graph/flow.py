"""`Flow`: a graph in a model: what every writer wrote in a run, and how every reader reads the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.graph.entrances import Entrance
from interp.circuits.graph.graph import EMBED, POS_EMBED, Graph, LayerShape
from interp.circuits.graph.joined import joined_layers
from interp.circuits.graph.lean import lean, reading_at
from interp.circuits.kept import Kept
from interp.circuits.readout import Norm, is_close, refused
from interp.circuits.writes import ATTN, MLP, POST, PRE, Writers, Z
from interp.hooks.batch import Batch
from interp.hooks.capture import Cache
from interp.hooks.names import point_name
from interp.hooks.prompts import from_inputs
from interp.hooks.reads import Reads

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

MLP_IN = "hook_mlp_in"
Stream = Float[Tensor, "batch pos d_model"]
HeadState = Float[Tensor, "batch pos head _"]
"""What the heads of a layer wrote: z, or the written vectors themselves where a norm stands behind them."""


@dataclass(frozen=True, eq=False)
class Writes:
    """What the writers of a graph wrote in one run, or what is put in their place.

    Attributes:
        embed: by writer.
        heads: by layer, see `HeadState`.
        mlp: by layer.
    """

    embed: Mapping[str, Stream]
    heads: Mapping[int, HeadState]
    mlp: Mapping[int, Stream]

    def map(self, function: Callable[[Tensor], Tensor]) -> Writes:
        """Another value for each."""
        return Writes(
            {name: function(value) for name, value in self.embed.items()},
            {layer: function(value) for layer, value in self.heads.items()},
            {layer: function(value) for layer, value in self.mlp.items()},
        )

    def minus(self, other: Writes) -> Writes:
        """The difference; a side with one row or position stands for all of them."""
        return Writes(
            {name: value - other.embed[name] for name, value in self.embed.items()},
            {layer: value - other.heads[layer] for layer, value in self.heads.items()},
            {layer: value - other.mlp[layer] for layer, value in self.mlp.items()},
        )

    @property
    def n_bytes(self) -> int:
        """Memory that it holds."""
        values = [*self.embed.values(), *self.heads.values(), *self.mlp.values()]
        return sum(value.numel() * value.element_size() for value in values)


@dataclass(frozen=True, eq=False)
class Flow:
    """Made by `Flow.of`.

    Attributes:
        norms: layer -> the norm (Gemma 2, OLMo 2) or fixed factors (DINOv2, Granite) between its heads and the stream; None
            without one.
        reads: layer -> how its heads read the stream.
        error: largest difference between the stream and the sum of what was written to it, as a share of the stream's
            largest number, over the layers, on the probe input.
    """

    model: HookedModel
    graph: Graph
    norms: Mapping[int, Norm | None]
    reads: Mapping[int, Reads]
    error: float = 0.0

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedModel, embeddings: str = "split") -> Flow:
        """The graph of a model, checked on its probe input.

        Args:
            embeddings: 'split' makes tokens and positions two writers where the model adds them; 'joint' one.

        Raises:
            InterpError: E403 with the layer, where what is written does not sum to the stream, or where something that
                reads it is not known.
        """
        writers = Writers.of(model)
        if missing := [layer for layer in range(model.n_layers) if layer not in writers.blocks]:
            raise refused(model, f"layer {missing[0]} has no attention that we know")
        modules = {layer: Reads.of(model, layer).modules for layer in writers.blocks}
        reads = Kept(modules, partial(Reads.of, model))
        layers = [_shape(model, writers, layer) for layer in reads]
        flow = cls(model, Graph.of_shape(layers), writers.norms, reads)
        probe = from_inputs(model.adapter.probe_inputs)
        _, cache = model.run_with_cache(probe, flow._points(split=True))
        joined = joined_layers(model, writers.norms, probe, cache)
        layers = [replace(shape, is_joined=joined[layer]) for layer, shape in enumerate(layers)]
        is_split = embeddings == "split" and flow._is_split(cache)
        flow = replace(flow, graph=Graph.of_shape(layers, (EMBED, POS_EMBED) if is_split else (EMBED,)))
        return replace(flow, error=flow.check(cache))

    def at_places(self, places: Sequence[str]) -> Flow:
        """The same with edges of their own for each class of positions."""
        return replace(self, graph=self.graph.at_places(places))

    @property
    def n_layers(self) -> int:
        return len(self.graph.layers)

    @cached_property
    def entrances(self) -> Mapping[int, Entrance]:
        """Layer -> how gradients come back through its projections: copies of their weights.

        Raises:
            InterpError: E403 where something that is no norm that we know stands before them.
        """
        return Kept({layer: reads.modules for layer, reads in self.reads.items()}, self._entrance)

    def _entrance(self, layer: int) -> Entrance:
        entrance = Entrance.of(self.reads[layer])
        if entrance is None:
            raise refused(self.model, f"what stands before the heads of layer {layer} is no norm that we know")
        return entrance

    @cached_property
    def is_split(self) -> bool:
        """Whether tokens and positions are two writers."""
        return POS_EMBED in self.graph.writer_index

    @property
    def points(self) -> list[str]:
        """Hook points that hold what was written."""
        return self._points(split=self.is_split)

    @property
    def written(self) -> list[str]:
        """Those of them that `writes` reads."""
        behind = {point_name(ATTN, layer) for layer, norm in self.norms.items() if norm is not None}
        kept = {point_name(PRE, 0), *behind}
        return [name for name in self.points if not name.endswith((PRE, ATTN, POST, "hook_pos_embed")) or name in kept]

    def _points(self, *, split: bool) -> list[str]:
        known = self.model.adapter.available
        found = [name for name in ("hook_embed", "hook_pos_embed") if name in known] if split else []
        for layer, shape in enumerate(self.graph.layers):
            kinds = [PRE, Z, ATTN, POST, *([MLP] if shape.has_mlp else [])]
            found += [point_name(kind, layer) for kind in kinds]
        return found

    def _is_split(self, cache: Cache) -> bool:
        """Whether the model adds tokens and positions, and nothing else, before its first layer."""
        if not {"hook_embed", "hook_pos_embed"} <= set(cache):
            return False
        return is_close(cache["hook_embed"] + cache["hook_pos_embed"], cache[point_name(PRE, 0)], self.model.dtype)

    def check(self, cache: Cache) -> float:
        """Hold the sum of what was written against the stream, layer by layer.

        Raises:
            InterpError: E403, the first layer whose sum does not come out.
        """
        writes = self.writes(cache)
        total = torch.stack(list(writes.embed.values())).sum(0)
        worst = 0.0
        for layer, shape in enumerate(self.graph.layers):
            worst = max(
                worst, self._agrees(total, cache[point_name(PRE, layer)], f"the stream that enters layer {layer}")
            )
            heads = self.expand(layer, writes.heads[layer]).sum(2)
            attended = heads + self._bias(layer, cache)
            worst = max(
                worst, self._agrees(attended, cache[point_name(ATTN, layer)], f"the attention of layer {layer}")
            )
            total = total + attended + (writes.mlp[layer] if shape.has_mlp else 0)
        return max(worst, self._agrees(total, cache[point_name(POST, self.n_layers - 1)], "the last stream"))

    def _agrees(self, total: Tensor, given: Tensor, where: str) -> float:
        if not is_close(total, given, self.model.dtype):
            raise refused(self.model, f"what was written does not sum to {where}")
        return float((total - given).abs().max() / given.abs().max().clamp(min=1e-30))

    def constant(self, layer: int) -> Float[Tensor, "#d_model"] | None:
        """What attention adds that belongs to no head; None where a norm makes it another in every run."""
        bias, norm = self.model.adapter.block(layer).out.bias, self.norms[layer]  # type: ignore[attr-defined]
        if norm is None:
            return torch.zeros(1, dtype=self.model.dtype, device=self.model.device) if bias is None else bias.detach()
        if norm.is_fixed and bias is not None:
            return norm(bias.detach(), bias.new_ones(1)).to(self.model.dtype)
        return norm.bias.to(self.model.dtype) if bias is None else None

    def _bias(self, layer: int, cache: Cache) -> Float[Tensor, "*#batch d_model"]:
        """The same in one run."""
        constant, norm = self.constant(layer), self.norms[layer]
        if constant is not None:
            return constant
        assert norm is not None
        bias, attn_out = self.model.adapter.block(layer).out.bias, cache[point_name(ATTN, layer)]  # type: ignore[attr-defined]
        scale = self._scale(layer, cache[point_name(Z, layer)], attn_out)
        return norm(bias.detach().expand_as(attn_out), scale).to(scale.dtype)

    def writes(self, cache: Cache) -> Writes:
        """What was written, from the points of a run."""
        embed = self.embeddings(cache[point_name(PRE, 0)], cache["hook_embed"] if self.is_split else None)
        heads = {
            layer: self.head_state(
                layer, cache[point_name(Z, layer)], None if norm is None else cache[point_name(ATTN, layer)]
            )
            for layer, norm in self.norms.items()
        }
        mlp = {layer: cache[point_name(MLP, layer)] for layer, shape in enumerate(self.graph.layers) if shape.has_mlp}
        return Writes(embed, heads, mlp)

    def embeddings(self, entering: Stream, tokens: Stream | None) -> dict[str, Stream]:
        """What the embeddings wrote."""
        return {EMBED: entering} if tokens is None else {EMBED: tokens, POS_EMBED: entering - tokens}

    def head_state(self, layer: int, z: HeadState, attn_out: Stream | None) -> HeadState:
        """What is kept of the heads of a layer; what its attention wrote is read where a norm stands behind them."""
        norm = self.norms[layer]
        if norm is None:
            return z
        assert attn_out is not None
        heads = torch.einsum("bphd,hdm->bphm", z, self.model.w_out(layer))
        scale = self._scale(layer, z, attn_out)
        return norm.linear(heads, scale[:, :, None].expand(-1, -1, heads.shape[2], -1)).to(z.dtype)

    def _scale(self, layer: int, z: HeadState, attn_out: Stream) -> Float[Tensor, "batch pos 1"]:
        """What the norm behind the heads divided by."""
        norm, out = self.norms[layer], self.model.adapter.block(layer).out  # type: ignore[attr-defined]
        assert norm is not None
        whole = torch.einsum("bphd,hdm->bpm", z, self.model.w_out(layer))
        return norm.scale(whole if out.bias is None else whole + out.bias.detach(), attn_out)

    def expand(self, layer: int, state: HeadState) -> Float[Tensor, "batch pos head d_model"]:
        """What the heads of a layer added to the stream, or a difference of that."""
        if self.norms[layer] is not None:
            return state
        return torch.einsum("bphd,hdm->bphm", state, self.model.w_out(layer))

    @torch.no_grad()
    def record(self, batch: Batch) -> Writes:
        """What every writer writes on these prompts."""
        with lean(self.model.adapter), reading_at(self.model, batch, None if batch.mask is None else batch.end):
            return self.writes(self.model.run_with_cache(batch, self.written)[1])

    def columns(self, writes: Writes, rows: slice = slice(None)) -> Iterator[Float[Tensor, "batch some_pos writer d"]]:
        """What the writers wrote at some positions, in their order, block after block."""
        yield torch.stack([value[:, rows] for value in writes.embed.values()], 2)
        for layer, shape in enumerate(self.graph.layers):
            yield self.expand(layer, writes.heads[layer][:, rows])
            if shape.has_mlp:
                yield writes.mlp[layer][:, rows, None]

    @torch.no_grad()
    def laid_out(self, writes: Writes, rows: slice, out: Float[Tensor, "writer batch some_pos d"]) -> None:
        """The same into one piece of memory, where each writer's numbers stand side by side."""
        for index, value in enumerate(writes.embed.values()):
            out[index] = value[:, rows]
        first = len(writes.embed)
        for layer, shape in enumerate(self.graph.layers):
            state, some = writes.heads[layer][:, rows].permute(2, 0, 1, 3), out[first : first + shape.heads]
            if self.norms[layer] is None:
                torch.bmm(state.flatten(1, 2), self.model.w_out(layer), out=some.flatten(1, 2))
            else:
                some.copy_(state)
            first += shape.heads
            if shape.has_mlp:
                out[first] = writes.mlp[layer][:, rows]
                first += 1


def _shape(model: HookedModel, writers: Writers, layer: int) -> LayerShape:
    """What a layer holds; raises E403 where something that reads the stream there is not known."""
    has_mlp = layer in writers.mlps
    for kind in ("attn.hook_q", "attn.hook_k", "attn.hook_v", *([MLP_IN] if has_mlp else [])):
        model.check_point(point_name(kind, layer))
    is_parallel = has_mlp and point_name("hook_resid_mid", layer) not in model.adapter.available
    return LayerShape(model.heads[""][layer], model.kv_heads[""][layer], has_mlp, is_parallel)
