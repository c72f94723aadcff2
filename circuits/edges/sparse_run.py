"""Forwards under hard circuits: what nobody in a circuit reads is not made, and sums over writers are matrix products.

The numbers are those of `MaskedRun`, to rounding. That lays out all writers anew for every group of readers, for the sake of
gradients, which takes longer than the forward itself; here each writer has its place in one piece of memory. Of a small
circuit most parts are read by nobody: what they read and write is left as it comes.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.edges.masked_run import MaskedRun, Masks
from interp.circuits.graph.flow import Stream
from interp.circuits.graph.graph import Graph
from interp.hooks.adapters.base import HookContext
from interp.hooks.names import HeadId

if TYPE_CHECKING:
    from interp.circuits.edges.masked import MaskedRuns


class SparseRun(MaskedRun):
    """One forward with hard circuits side by side; without gradients."""

    def __init__(self, runs: MaskedRuns, masks: Masks) -> None:
        super().__init__(runs, masks)
        graph = self.flow.graph
        self.inside = (masks > 0) & torch.from_numpy(graph.exists).to(masks.device)
        wanted = read(graph, self.inside.flatten(0, 1).any(0).cpu().numpy())
        kept = {key: [one for one in readers if wanted[one]] for key, readers in self.mixing.items()}
        self.mixing = {key: readers for key, readers in kept.items() if readers}
        mixed = [one for readers in self.mixing.values() for one in readers]
        self.stop = int(graph.seen[mixed].max(initial=0))
        self.is_small = all(bool(self._mostly_out(one).all()) for one in mixed)
        used = self.inside[..., mixed].flatten(0, 1).any(2).any(0).cpu().numpy()
        needed = [writer for writer in range(self.stop) if used[writer] or not self.is_small]
        self.slots = {writer: slot for slot, writer in enumerate(needed)}

    def _mostly_out(self, reader: int) -> Bool[Tensor, "circuit place"]:
        """Where a reader is told from what stands in for all writers, with those that are in put back."""
        seen = int(self.flow.graph.seen[reader])
        counted = self.inside[:, :, :seen, reader].sum(2)
        return (2 * counted < seen) & (seen in self.runs.stood_in)

    @cached_property
    def _place_of(self) -> Int[Tensor, " token"]:
        """Class of each token of the prompts."""
        clean, place_of = self.runs.contrast.clean.embed["embed"], self.runs.contrast.place_of
        if place_of is None:
            return torch.zeros(clean[..., 0].numel(), dtype=torch.long, device=clean.device)
        return place_of.expand(clean.shape[:2]).flatten()

    @cached_property
    def _order(self) -> Int[Tensor, " token"] | None:
        """Tokens, those of one class side by side; None where there is one class."""
        return self._place_of.argsort(stable=True) if len(self.flow.graph.places) > 1 else None

    @cached_property
    def _bounds(self) -> list[slice]:
        """Where the tokens of each class stand in that order."""
        ends = torch.bincount(self._place_of, minlength=len(self.flow.graph.places)).cumsum(0).tolist()
        return [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]

    @cached_property
    def _space(self) -> Float[Tensor, "slot circuit token d_model"]:
        """For each writer that is needed, what stands in for it less what it wrote."""
        clean = self.runs.contrast.clean.embed["embed"]
        return self._room("space", clean, len(self.slots), self.n, len(self._place_of), clean.shape[-1])

    def _room(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Memory that the runs of these prompts use one after the other: pages that are new to a process take long."""
        size, rooms = math.prod(shape), self.runs.rooms
        if name not in rooms or rooms[name].numel() < size or rooms[name].dtype != like.dtype:
            rooms[name] = like.new_empty(size)
        return rooms[name][:size].view(shape)

    def _is_needed(self, layer: int, kind: str) -> bool:
        parts = (self.flow.graph.writers[index] for index in self.slots)
        return any((part.layer, part.kind) == (layer, kind) for part in parts)

    def _ordered(self, value: Float[Tensor, "row pos *some"]) -> Float[Tensor, "circuit token *some"]:
        value = value.reshape(-1, len(self._place_of), *value.shape[2:])
        return value if self._order is None else value[:, self._order]

    def _move(self, label: str, ablated: Tensor, written: Tensor) -> None:
        slot = self.slots.get(self.flow.graph.writer_index[label])
        if slot is not None:
            moved = ablated - written.unflatten(0, (self.n, -1))
            self._space[slot] = self._ordered(moved.flatten(0, 1))

    def _move_heads(self, layer: int, value: Stream, _: HookContext) -> None:
        first = self.flow.graph.writer_index[HeadId("", layer, 0).label]
        heads = [head for head in range(self.flow.graph.layers[layer].heads) if first + head in self.slots]
        start = self.slots[first + heads[0]]
        space = self._space[start : start + len(heads)].flatten(1, 2)
        now = self.flow.head_state(layer, self.given.pop("z"), value).unflatten(0, (self.n, -1))
        moved = (self.runs.contrast.ablated.heads[layer] - now)[..., heads, :].flatten(0, 1)
        state = self._ordered(moved).permute(2, 0, 1, 3).flatten(1, 2)  # [head row-and-pos d]
        if self.flow.norms[layer] is None:
            torch.bmm(state, self.flow.model.w_out(layer)[heads], out=space)
        else:
            space.copy_(state)

    def _enter(self, layer: int, value: Stream, _: HookContext) -> None:
        if layer == 0 and self.stop:
            written = self.flow.embeddings(value, self.given.pop("tokens") if self.flow.is_split else None)
            for label, embedding in written.items():
                self._move(label, self.runs.contrast.ablated.embed[label], embedding)
        groups = {part: self.mixing[layer, part] for part in "qkv" if (layer, part) in self.mixing}
        readers = [one for some in groups.values() for one in some]
        if not readers:
            return
        reads = self.flow.reads[layer]
        mixed = iter(
            reads.normed(self._summed(value, readers)).flatten(1, 2).split([len(some) for some in groups.values()])
        )
        for part, some in groups.items():
            heads = [self.flow.graph.readers[index].head for index in some]
            made = torch.bmm(next(mixed), reads.weights[part][heads])
            bias = reads.biases[part]
            made = made if bias is None else made + bias[heads][:, None]
            self.given[part] = made.unflatten(1, value.shape[:2]).permute(1, 2, 0, 3)

    def _mix_one(self, readers: list[int], value: Stream, _: HookContext) -> Stream:
        return self._summed(value, readers)[0].clone()  # the model keeps it

    def _summed(self, stream: Stream, readers: list[int]) -> Float[Tensor, "reader row pos d_model"]:
        """What these readers, which see the same writers, read."""
        seen = int(self.flow.graph.seen[readers[0]])
        writers = [writer for writer in self.slots if writer < seen]
        inside = self.inside[:, :, writers][..., readers].mT.to(stream.dtype)  # [circuit place reader writer]
        mostly = torch.stack([self._mostly_out(one) for one in readers], 2)[..., None]  # [circuit place reader 1]
        shares = torch.where(mostly, -inside, 1 - inside)
        stood_in = self._stood_in(seen, stream)
        now = None if self.is_small else self._ordered(stream)
        found = self._room("sums", stream, len(readers), self.n, *stood_in.shape)
        for place, tokens in enumerate(self._bounds):
            for circuit in range(self.n):
                space = found[:, circuit, tokens]
                begun = stood_in[tokens]
                if now is not None:
                    begun = torch.where(mostly[circuit, place, :, :, None], begun, now[circuit, tokens])
                space.copy_(begun.expand_as(space))
                moved = self._space[: len(writers), circuit, tokens].flatten(1)
                space.view(len(readers), -1).addmm_(shares[circuit, place], moved)
        if self._order is not None:
            found = torch.empty_like(found).index_copy_(2, self._order, found)
        return found.view(len(readers), *stream.shape)

    def _stood_in(self, seen: int, stream: Stream) -> Float[Tensor, "token d_model"]:
        """What a reader reads that sees nothing of the current run; 0 where that is not known, and not used."""
        total = self.runs.stood_in.get(seen)
        if total is None:
            return stream.new_zeros(len(self._place_of), stream.shape[-1])
        total = total.expand(len(stream) // self.n, *stream.shape[1:])
        return self._ordered(total)[0].to(stream.dtype)


def read(graph: Graph, edges: Bool[np.ndarray, "writer reader"]) -> Bool[np.ndarray, " reader"]:
    """Readers whose part is read, straight or through others, by the logits; and the logits."""
    found = np.zeros(len(graph.readers), dtype=bool)
    found[-1] = True
    for parts, here, moving in reversed(graph.together):
        if edges[parts][:, found].any():
            found[here] = found[moving] = True
    return found
