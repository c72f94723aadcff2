"""`Rerun`: many variants of one batch, each with the numbers of a full forward, from as little computation as can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.batch import Batch
from interp.hooks.interventions import Intervention
from interp.hooks.naive import plain_outputs, read_output
from interp.hooks.names import point_name
from interp.hooks.rerun.change import First, Variant, edits, first, names_needed
from interp.hooks.rerun.changes import Changes
from interp.hooks.rerun.cost import Cost
from interp.hooks.rerun.layers import LayerRuns, repeated
from interp.hooks.rerun.memory import peak
from interp.hooks.rerun.nodes import NodeRuns, narrow
from interp.hooks.rerun.plan import Chunk, Plan
from interp.hooks.rerun.proof import distrust
from interp.hooks.rerun.record import NodeView, Record, record
from interp.hooks.rerun.restart import output_layer
from interp.hooks.rerun.tree import plant

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

TEXT = frozenset(("input_ids", "attention_mask", "position_ids"))
"""Inputs under which equal token ids with equal beginnings are equal tokens."""

SHARE = 0.9
"""Prompts share nodes where that leaves at most this part of the tokens: a tree of many branches has its price."""

CACHE = 1 << 24
"""Bytes of the widest activation of a run on a CPU: above it, what one operation writes is gone from the cache when the
next one reads it (a third slower on GPT-2 small's shape)."""

BUDGET = 1 << 30
"""Bytes, where nothing else is said."""


class Rerun:
    """Variants of one batch of prompts.

    The untouched model runs once and is recorded. What a variant's hooks change first is told by running them on the
    recording; from there on, only the tokens that this can reach and that the metric depends on run again.

    Args:
        model: any opened model.
        batch: prompts.
        variants: interventions whose reference values, where they have a batch axis, are aligned with `batch`.
        read_at: position that the metric reads for each prompt; -1 for pooled outputs.
        columns: vocabulary entries that the metric reads; None for all.
        share: compute what several prompts begin with once.
        proven: hold the shortcuts against full forwards of this model first (once for each model).

    Attributes:
        clean: what the metric sees of the untouched model [batch d_out], on the CPU.
        why_forward, why_layers: why only full forwards, or only restarts at a layer, are open; '' where more is.
    """

    def __init__(
        self,
        model: HookedModel,
        batch: Batch,
        variants: Sequence[Variant],
        read_at: Int[Tensor, " batch"],
        *,
        columns: Int[Tensor, " column"] | None = None,
        share: bool = True,
        proven: bool = True,
    ) -> None:
        batch = model.batch(batch)
        self.model, self.batch, self.variants, self.read_at = model, batch, variants, read_at
        self.columns, self.share, self.proven = columns, share, proven
        self.hooks = [edits(model, batch, variant) for variant in variants]
        self.firsts = [first(hooks) for hooks in self.hooks]
        self._bytes: dict[tuple[str, tuple[str, ...]], tuple[int, float]] = {}
        self.why_layers = ""
        self.why_forward = self._record()
        if self.why_forward:
            self.clean = self._narrowed(plain_outputs(model, batch, read_at, batch.size))

    def plan(self, members: Iterable[int] | None = None, *, budget: int = BUDGET) -> Plan:
        """How variants will be run, and what it costs.

        Args:
            members: which variants; None for all.
            budget: bytes that a run may hold at most. One variant of one batch is the least that can be run.
        """
        members = range(len(self.variants)) if members is None else list(members)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index in members:
            groups.setdefault(self.routes[index].key, []).append(index)
        recorded = 0 if self.why_forward else self.recording.n_bytes
        chunks = []
        for found in groups.values():
            chunk = self.routes[found[0]]
            most = min(len(found), self._comfortable(chunk)) if self._can_stack(chunk) else 1
            fixed, each = 0, self._bound(chunk)
            if each * most > budget - recorded:
                fixed, each = self._measured(chunk)
                most = min(most, max(1, (budget - recorded - fixed) // max(each, 1)))
            for start in range(0, len(found), most):
                part = tuple(found[start : start + most])
                peak = fixed + each * len(part)
                chunks.append(replace(chunk, variants=part, flops=chunk.flops * len(part), peak=peak))
        naive = 2 * self._cost.forward(self.batch.size, self._width) * len(members) if self._cost else 0
        return Plan(tuple(chunks), naive, recorded, budget)

    @torch.no_grad()
    def run(self, chunk: Chunk) -> Float[Tensor, "variant batch d_out"]:
        """What the metric sees under each variant of a chunk, on the CPU."""
        n = len(chunk.variants)
        if chunk.route == "nothing":
            return self.clean.repeat(n, 1, 1)
        if chunk.route == "forward":
            return torch.stack([self._forward(index) for index in chunk.variants])
        if chunk.route == "nodes":
            return self._on_nodes(chunk)
        output = self._layer_runs.outputs(chunk.layer, [self.hooks[index] for index in chunk.variants])
        return self._narrowed(read_output(output, repeated(self.batch, n), self.read_at.repeat(n))).unflatten(
            0, (n, -1)
        )

    def _on_nodes(self, chunk: Chunk) -> Float[Tensor, "variant batch d_out"]:
        assert chunk.first is not None and chunk.touched is not None
        runs = self._node_runs[chunk.is_shared]
        firsts: Any = [self.firsts[index] for index in chunk.variants]
        changes: Any = [
            self._changes.of(index, found, runs.view) for index, found in zip(chunk.variants, firsts, strict=True)
        ]
        nodes, output = runs.outputs(chunk.first, changes, [found.later for found in firsts], chunk.touched)
        values = self.clean.repeat(len(changes), 1, 1)
        place = np.cumsum(nodes) - 1
        rows = np.flatnonzero(nodes[runs.view.tree.read])
        values[:, rows] = output[:, place[runs.view.tree.read[rows]]].to(values.device, values.dtype)
        return values

    def _forward(self, index: int) -> Float[Tensor, "batch d_out"]:
        variant = self.variants[index]
        with self.model.edit(*([variant] if isinstance(variant, Intervention) else variant)):
            return self._narrowed(read_output(self.model(self.batch), self.batch, self.read_at))

    def _narrowed(self, output: Float[Tensor, "row d_out"]) -> Tensor:
        return (output if self.columns is None else output[:, self.columns.to(output.device)]).cpu()

    def _record(self) -> str:
        """Record the untouched model; the reason where nothing but full forwards will do."""
        adapter = self.model.adapter
        if not isinstance(adapter, HuggingFaceAdapter):
            return "only a transformers model can begin a forward at a layer"
        self.adapter: HuggingFaceAdapter = adapter
        if self.model.is_edited:
            return "interventions are in force already"
        inside = [point for hooks in self.hooks for point in hooks if not point.tower and point.layer is not None]
        if not inside:
            return "nothing is edited in the layers of the main tower"
        begin = min(point.layer for point in inside if point.layer is not None)
        needed = [point_name("hook_resid_pre", layer) for layer in range(begin, adapter.towers[""].n_layers)]
        if closed := [name for name in needed if name not in adapter.available]:
            return f"{closed[0]} is not available: {adapter.refused.get(closed[0], 'no attention in this layer')}"
        reason = distrust(self.model) if self.proven else {}
        if "layers" in reason:
            return reason["layers"]
        found = [one for one in self.firsts if isinstance(one, First)]
        names: set[str] = set().union(*(names_needed(one) for one in found))
        edited = {one.layer for one in found if one.where != "entry"}
        head = self._read_head if self._reads_position and adapter.output_name == "logits" else None
        self.recording: Record = record(adapter, self.batch, sorted(names), edited, begin, head)
        output = self.recording.output
        self.clean = (
            self._narrowed(read_output(output, self.batch, self.read_at)) if head is None else output[:, 0].cpu()
        )
        self.why_layers = reason.get("nodes") or self._why_not_nodes(edited)
        whole = self.why_layers or any(isinstance(one, str) or one.needs_attention for one in self.firsts)
        if self.proven and not whole:
            self.recording.side_outputs.clear()  # no forward will ask for them
        return ""

    @property
    def _reads_position(self) -> bool:
        return "input_ids" in self.batch.inputs and bool((self.read_at >= 0).all())

    def _read_head(self, hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch 1 d_out"]:
        """The output layer where the metric reads, and nowhere else."""
        rows = torch.arange(len(hidden), device=hidden.device)
        return narrow(output_layer(self.adapter), self.columns)(hidden[rows, self.read_at][:, None])

    def _why_not_nodes(self, edited: set[int]) -> str:
        """Why variants cannot run on nodes; '' where they can."""
        calls = self.recording.calls
        if self.recording.output.ndim != 3 or not self._reads_position:
            return "the metric does not read one position of a text"
        if self.adapter.position_ids != "argument":
            return "the model cannot be told positions"
        if set(calls) != set(range(self.adapter.towers[""].n_layers)):
            return "some layers compute attention in their own code"
        if any(call.options.get("position_bias") is not None for call in calls.values()):
            return "attention scores have a bias of their own"
        if not all(is_causal(call.mask) for call in calls.values()):
            return "attention is not causal"
        if outside := [layer for layer in sorted(edited) if not _projects_inside(self.adapter, layer)]:
            return f"the output projection of layer {outside[0]} is outside its attention"
        return ""

    @cached_property
    def routes(self) -> tuple[Chunk, ...]:
        """How each variant runs, by itself, with its cost."""
        found = [
            Chunk((), "forward", why=self.why_forward) if self.why_forward else self._route(index)
            for index in range(len(self.variants))
        ]
        return tuple(replace(chunk, flops=self._flops(chunk)) for chunk in found)

    def _route(self, index: int) -> Chunk:
        found, hooks = self.firsts[index], self.hooks[index]
        why = found if isinstance(found, str) else self.why_layers
        kinds = tuple(sorted(point.kind for point in hooks))
        if why and any(point.tower or point.layer is None for point in hooks):
            return Chunk((), "forward", why=why)
        if why or isinstance(found, str):
            begin = min(point.layer for point in hooks if point.layer is not None)
            return Chunk((), "layers", begin, why=why, kinds=kinds)
        runs = self._node_runs
        shared = not found.later and not found.needs_attention and runs[True].view.tree.is_shared
        change = self._changes.of(index, found, runs[shared].view)
        if change is None:  # prompts with a common beginning part there
            shared, change = False, self._changes.of(index, found, runs[False].view)
        assert change is not None
        touched = change.nodes
        if found.later:
            touched = touched | self._changes.later_nodes(found, runs[False].view)
        if not runs[shared].reach(found.where, found.layer, touched).any():
            return Chunk((), "nothing")
        return Chunk((), "nodes", found.layer, first=found, touched=touched, is_shared=shared, kinds=kinds)

    @cached_property
    def _layer_runs(self) -> LayerRuns:
        return LayerRuns(self.adapter, self.recording)

    @cached_property
    def _changes(self) -> Changes:
        return Changes(self._layer_runs)

    @cached_property
    def _node_runs(self) -> dict[bool, NodeRuns]:
        """Node runs with nodes that prompts share, and without; the same where sharing saves too little."""
        ids, given = self.batch.input_ids, self.batch.inputs.get("position_ids")
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids) if given is None else given
        tree = plant(self.batch, self.read_at, positions, share=False)
        common = plant(self.batch, self.read_at, positions, share=True) if self._may_share else tree
        trees = {False: tree, True: common if common.size <= SHARE * tree.size else tree}
        views = {share: NodeView(self.recording, tree) for share, tree in trees.items()}
        runs = {
            share: NodeRuns(self.adapter, view, view.nodes(positions), self.columns) for share, view in views.items()
        }
        return runs if trees[True] is not tree else {False: runs[False], True: runs[False]}

    @property
    def _may_share(self) -> bool:
        return self.share and set(self.batch.inputs) <= TEXT

    def _can_stack(self, chunk: Chunk) -> bool:
        return chunk.route == "nodes" or (chunk.route == "layers" and self._layer_runs.can_stack)

    @property
    def _width(self) -> int:
        """Tokens of a prompt, padding included."""
        return self.recording.width if not self.why_forward else 0

    @cached_property
    def _cost(self) -> Cost | None:
        return None if self.why_forward else Cost.of(self.adapter)

    def _tokens(self, chunk: Chunk) -> int:
        """Tokens that one variant of a chunk runs on, where it runs on most."""
        if chunk.route != "nodes":
            return self.batch.size * self._width
        assert chunk.first is not None and chunk.touched is not None
        return self._node_runs[chunk.is_shared].most_tokens(chunk.first, chunk.touched)

    def _flops(self, chunk: Chunk) -> int:
        """Of one variant."""
        if self._cost is None or chunk.route == "nothing":
            return 0
        if chunk.route in ("layers", "forward"):
            return 2 * self._cost.forward(self.batch.size, self._width, chunk.layer)
        assert chunk.first is not None and chunk.touched is not None
        return 2 * self._node_runs[chunk.is_shared].operations(self._cost, chunk.first, chunk.touched)

    def _comfortable(self, chunk: Chunk) -> int:
        """Variants beyond which more at once takes longer, not less; accelerators like them all."""
        if self._cost is None or self.model.device.type != "cpu":
            return len(self.variants)
        token = self._cost.widest * self.clean.element_size()
        return max(1, CACHE // max(1, token * self._tokens(chunk)))

    def _bound(self, chunk: Chunk) -> int:
        """Bytes that one variant surely does not exceed; good enough where memory is plenty, and costs nothing."""
        if self._cost is None or chunk.route not in ("nodes", "layers"):
            return 0
        entries = self._cost.entries if self.columns is None else len(self.columns)
        numbers = self._cost.bound(self._width, self.recording.d_model, max(self.adapter.heads[""]))
        return self.clean.element_size() * (numbers * self._tokens(chunk) + 3 * self.batch.size * entries)

    def _measured(self, chunk: Chunk) -> tuple[int, int]:
        """Bytes of a run, whatever the number of its variants, and bytes of each variant."""
        alike = (chunk.route, chunk.kinds)
        if alike not in self._bytes:
            members = [index for index, one in enumerate(self.routes) if (one.route, one.kinds) == alike]
            index = max(members, key=lambda one: (self._tokens(self.routes[one]), -self.routes[one].layer, -one))
            largest, counts = self.routes[index], (1, 2) if self._can_stack(chunk) else (1,)
            peaks = [peak(lambda n=n: self.run(replace(largest, variants=(index,) * n))) for n in counts]  # type: ignore[misc]
            each = peaks[-1] - peaks[0]
            self._bytes[alike] = peaks[0] - each, each / self._tokens(largest)
        fixed, token = self._bytes[alike]
        if chunk.touched is not None:
            fixed += self._node_runs[chunk.is_shared].recorded_bytes(chunk.touched)
        return fixed, int(token * self._tokens(chunk))


def is_causal(mask: Tensor | None) -> bool:
    """Whether no query sees a later key."""
    if mask is None:
        return False
    later = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).triu(1)
    return bool((mask.masked_select(later) <= torch.finfo(mask.dtype).min / 2).all())


def _projects_inside(adapter: HuggingFaceAdapter, layer: int) -> bool:
    block = adapter.block(layer)
    return any(module is block.out for module in block.attn.modules())
