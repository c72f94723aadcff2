"""Forwards in which some edges are out: every reader sees its own sum of writers.

What a reader reads is the stream of the current run plus, for every edge that is out, what stands in for the writer less
what the writer writes in the current run. Where most edges of a reader are out, it is told from the other end: all that
stands in for writers, plus the difference for every edge that is in. A norm makes much of little, so that next to
nothing must not be the difference of large numbers. Norms are computed anew on what is read, and so is everything after.
With soft masks an edge is partly out. Several circuits run side by side on the batch axis; readers whose edges are all in, in all of
them, read the stream as it is and cost nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.edges.gradients import run_read
from interp.circuits.graph.flow import MLP_IN, Stream
from interp.circuits.question import Question
from interp.circuits.receivers import LOGITS
from interp.circuits.writes import ATTN, MLP, POST, PRE, Z
from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.names import HeadId, point_name
from interp.hooks.rerun.layers import repeated
from interp.hooks.rerun.restart import entered

if TYPE_CHECKING:
    from interp.circuits.edges.masked import MaskedRuns

Masks = Float[Tensor, "circuit place writer reader"]
"""1 where an edge is in, 0 where it is out, or between."""


@dataclass(eq=False)
class State:
    """A run, that others begin with.

    Attributes:
        streams: what enters each layer; last what leaves the last one.
        moved: for each writer, what stands in for it less what it wrote.
    """

    streams: dict[int, Stream] = field(default_factory=dict)
    moved: dict[int, Float[Tensor, "row pos d_model"]] = field(default_factory=dict)


class MaskedRun:
    """One forward with masks; made anew for each.

    Args:
        begin: the first layer that runs; the number of layers, where only the logits are read anew. A model that may not
            be restarted runs from its first layer, and counts as that.
        after: a run whose circuit is the same in the layers before that.
        keep: remember everything in `state`.
    """

    def __init__(
        self, runs: MaskedRuns, masks: Masks, *, begin: int = 0, after: State | None = None, keep: bool = False
    ) -> None:
        begin = begin if begin and runs.can_restart else 0
        self.runs, self.flow, self.begin, self.n = runs, runs.flow, begin, len(masks)
        graph = self.flow.graph
        self.out = (1 - masks) * torch.from_numpy(graph.exists).to(masks.device, masks.dtype)
        is_out = (self.out.detach() != 0).flatten(0, 2).any(0).cpu().numpy() | masks.requires_grad
        self.mixing: dict[tuple[int, str], list[int]] = {}
        for index in np.flatnonzero(is_out):
            reader = graph.readers[index]
            self.mixing.setdefault((reader.layer, reader.part), []).append(int(index))
        self.stop = len(graph.writers) if keep else int(graph.seen[is_out].max(initial=0))
        self.state, self.keep = State(), keep
        self.given: dict[str, Tensor] = {}
        if begin:
            assert after is not None, "a run that begins inside needs another one"
            self.state.moved = {
                index: value.repeat(self.n, 1, 1)
                for index, value in after.moved.items()
                if (graph.writers[index].layer or 0) < begin and index < self.stop
            }
            self.state.streams[begin] = after.streams[begin].repeat(self.n, 1, 1)

    def run(self) -> Float[Tensor, "circuit batch d_out"]:
        """What the metric sees under each circuit."""
        stages = self.flow.n_layers + 1
        self.runs.forwards += self.n * (stages - self.begin) / stages
        question, model = self.runs.contrast.question, self.flow.model
        batch = repeated(question.batch, self.n)
        asked = Question(batch, question.read_at.repeat(self.n), question.metric)
        with ExitStack() as stack:
            if self.begin:
                tails, adapter = self.runs.recorded.layer_tails, model.adapter
                assert isinstance(adapter, HuggingFaceAdapter)
                stack.enter_context(entered(adapter, self.begin, self.state.streams[self.begin], tails))
            grad = torch.is_grad_enabled()
            output = run_read(model, asked, lambda: model.run_with_hooks(batch, self._hooks(), grad=grad))
        return output.unflatten(0, (self.n, -1))

    def _hooks(self) -> dict[str, list[HookFn]]:
        hooks: dict[str, list[HookFn]] = {}
        if not self.begin and self.flow.is_split and self.stop:
            hooks["hook_embed"] = [self._see_tokens]
        for layer in range(self.begin, self.flow.n_layers):
            hooks[point_name(PRE, layer)] = [partial(self._enter, layer)]
            for part in "qkv":
                if (layer, part) in self.mixing:
                    hooks[point_name(f"attn.hook_{part}", layer)] = [partial(self._put, part, layer)]
            if self._is_needed(layer, "head"):
                hooks[point_name(Z, layer)] = [self._see_z]
                hooks[point_name(ATTN, layer)] = [partial(self._move_heads, layer)]
            if (layer, "mlp") in self.mixing:
                hooks[point_name(MLP_IN, layer)] = [partial(self._mix_one, self.mixing[layer, "mlp"])]
            if self._is_needed(layer, "mlp"):
                hooks[point_name(MLP, layer)] = [partial(self._move_mlp, layer)]
        hooks[point_name(POST, self.flow.n_layers - 1)] = [self._leave]
        return hooks

    def _is_needed(self, layer: int, kind: str) -> bool:
        """Whether a reader that mixes comes after these writers."""
        return any(part.layer == layer and part.kind == kind for part in self.flow.graph.writers[: self.stop])

    def _see_tokens(self, value: Stream, _: HookContext) -> None:
        self.given["tokens"] = value

    def _see_z(self, value: Tensor, _: HookContext) -> None:
        self.given["z"] = value

    def _enter(self, layer: int, value: Stream, _: HookContext) -> None:
        """The stream that enters a layer; what its heads read is made here."""
        if self.keep:
            self.state.streams[layer] = value
        if layer == 0 and self.stop:
            written = self.flow.embeddings(value, self.given.pop("tokens") if self.flow.is_split else None)
            for label, embedding in written.items():
                self._move(label, self.runs.contrast.ablated.embed[label], embedding)
        reads = self.flow.reads[layer]
        for part in "qkv":
            if (layer, part) not in self.mixing:
                continue
            readers = self.mixing[layer, part]
            heads = [self.flow.graph.readers[index].head for index in readers]
            mixed = reads.normed(self._mixed(value, readers))
            made = torch.einsum("bphm,hmd->bphd", mixed, reads.weights[part][heads])
            bias = reads.biases[part]
            self.given[part] = made if bias is None else made + bias[heads]

    def _put(self, part: str, layer: int, value: Tensor, _: HookContext) -> Tensor:
        """Some heads' queries, keys or values replaced by what they make of their own sums."""
        heads = [self.flow.graph.readers[index].head for index in self.mixing[layer, part]]
        value = value.clone()
        value[:, :, heads] = self.given.pop(part).to(value.dtype)
        return value

    def _mixed(self, stream: Stream, readers: list[int]) -> Float[Tensor, "row pos reader d_model"]:
        """What these readers, which see the same writers, read."""
        seen = int(self.flow.graph.seen[readers[0]])
        moved = torch.stack([self.state.moved[index] for index in range(seen)], 2)
        out = self.out[:, :, :seen, readers].to(moved.dtype)
        shares, begun = out, stream[:, :, None]
        mostly = out.detach().sum(2) > seen / 2  # [circuit place reader]
        if mostly.any() and seen in self.runs.stood_in:
            shares = torch.where(mostly[:, :, None], out - 1, out)
            stood_in = self._repeated(self.runs.stood_in[seen])[:, :, None]
            begun = torch.where(self._at_tokens(mostly)[..., None], stood_in, begun)
        place_of = self.runs.contrast.place_of
        if place_of is None:
            shift = torch.einsum("cwr,cbpwm->cbprm", shares[:, 0], moved.unflatten(0, (self.n, -1))).flatten(0, 1)
        else:
            shift = torch.einsum("bpwr,bpwm->bprm", shares[:, place_of].flatten(0, 1), moved)
        return begun + shift.to(stream.dtype)

    def _at_tokens(self, value: Bool[Tensor, "circuit place reader"]) -> Bool[Tensor, "row some_pos reader"]:
        """A value of each class of positions, at every token."""
        place_of, n_rows = self.runs.contrast.place_of, self.runs.contrast.question.batch.size
        return value.repeat_interleave(n_rows, 0) if place_of is None else value[:, place_of].flatten(0, 1)

    def _mix_one(self, readers: list[int], value: Stream, _: HookContext) -> Stream:
        return self._mixed(value, readers)[:, :, 0]

    def _leave(self, value: Stream, context: HookContext) -> Stream | None:
        """The last stream, as the logits read it."""
        if self.keep:
            self.state.streams[self.flow.n_layers] = value
        readers = self.mixing.get((-1, LOGITS))
        return None if readers is None else self._mix_one(readers, value, context)

    def _move(self, label: str, ablated: Tensor, written: Tensor) -> None:
        """Note what stands in for a writer less what it wrote."""
        self.state.moved[self.flow.graph.writer_index[label]] = self._repeated(ablated) - written

    def _move_heads(self, layer: int, value: Stream, _: HookContext) -> None:
        now = self.flow.head_state(layer, self.given.pop("z"), value)
        moved = self.flow.expand(layer, self._repeated(self.runs.contrast.ablated.heads[layer]) - now)
        first = self.flow.graph.writer_index[HeadId("", layer, 0).label]
        self.state.moved |= {first + head: one for head, one in enumerate(moved.unbind(2))}

    def _move_mlp(self, layer: int, value: Stream, _: HookContext) -> None:
        self._move(f"M{layer}", self.runs.contrast.ablated.mlp[layer], value)

    def _repeated(self, ablated: Tensor) -> Tensor:
        """Once for each circuit; one row that stands for all prompts does so already."""
        return ablated.repeat(self.n, *[1] * (ablated.ndim - 1)) if len(ablated) > 1 else ablated
