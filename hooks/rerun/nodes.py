"""The fast route: variants run on the nodes they can change, many at once, against the recorded keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.names import PointId, point_name
from interp.hooks.rerun.attention import Layout, attend, lay_out
from interp.hooks.rerun.change import Change, Edits, First, apply
from interp.hooks.rerun.cost import Cost, separate_query
from interp.hooks.rerun.record import NodeView
from interp.hooks.rerun.restart import (
    FUSED,
    Reached,
    attending,
    entered,
    layers,
    like,
    output_layer,
    replaced,
    stop_at_entry,
    written_out,
)

Mask = Bool[np.ndarray, " node"]


@dataclass(frozen=True, eq=False)
class Start:
    """Where a forward begins: the stream that enters a layer, at some nodes, for every variant.

    Attributes:
        nodes: which ones; they ride on the sequence axis in their order.
        hidden: of every variant at these nodes.
        first, changes: set where the layer begins with its attention done: what differs there.
    """

    layer: int
    nodes: Mask
    hidden: Float[Tensor, "variant started d_model"]
    first: First | None = None
    changes: Sequence[Change] = ()


@dataclass(frozen=True, eq=False)
class Known:
    """Keys and values of the last layer that were computed beforehand, and at which nodes."""

    nodes: Mask
    k: Float[Tensor, "variant kv_head fresh d_head"]
    v: Float[Tensor, "variant kv_head fresh d_head"]


@dataclass(eq=False)
class NodeRuns:
    """Forwards over some nodes of one recorded batch.

    Attributes:
        positions: position id of every node.
        columns: entries of the vocabulary that are computed; None for all.
    """

    adapter: HuggingFaceAdapter
    view: NodeView
    positions: Int[Tensor, " node"]
    columns: Int[Tensor, " column"] | None = None
    layouts: dict[tuple[bytes, bytes], Layout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules = layers(self.adapter)
        self.last = len(self.modules) - 1
        self.activations = written_out(self.adapter)
        self.read = np.zeros(self.view.tree.size, dtype=bool)
        self.read[self.view.tree.read] = True

    def reach(self, where: str, layer: int, changed: Mask) -> Mask:
        """The read nodes whose output can differ after a change."""
        is_last = layer == self.last if where != "entry" else layer > self.last
        return self.read & (changed if is_last else self.view.tree.below(changed))

    def most_tokens(self, first: First, touched: Mask) -> int:
        """Nodes that run together, at most."""
        is_last = first.layer >= self.last and not (first.where == "entry" and first.layer == self.last)
        return int((touched & self.read if is_last else self.view.tree.below(touched)).sum())

    def operations(self, cost: Cost, first: First, touched: Mask) -> int:
        """Multiply-adds of one variant."""
        reached = self.view.tree.below(touched)
        asked, layer, total = int((reached & self.read).sum()), first.layer, 0
        if first.where != "entry":
            touched = touched & self.read if layer == self.last else touched
            total += int(touched.sum()) * cost.layers[layer].mlp
            layer += 1
        for index in range(layer, self.last):
            total += (
                int(reached.sum()) * cost.layers[index].token + self._pairs(reached, reached) * cost.layers[index].pair
            )
        if layer <= self.last:
            end = cost.layers[self.last]
            total += int(reached.sum()) * (end.into - end.query) + asked * (end.query + end.out + end.mlp)
            total += self._pairs(reached & self.read, reached) * end.pair
        return total + asked * cost.entry * (cost.entries if self.columns is None else len(self.columns))

    def recorded_bytes(self, touched: Mask) -> int:
        """Recorded keys and values that are laid out beside the new ones, at most."""
        reached = self.view.tree.below(touched)
        tokens = sum(group.recorded.numel() for group in self._layout(reached, reached).groups)
        call = self.view.record.calls[self.last]
        return 2 * tokens * call.k[0].numel() * call.k.element_size()

    def _pairs(self, asks: Mask, changed: Mask) -> int:
        """Queries times the keys they are compared with."""
        layout = self._layout(asks, changed)
        return sum(group.queries.numel() * group.key_columns.shape[1] for group in layout.groups)

    @torch.no_grad()
    def outputs(
        self, first: First, changes: Sequence[Change], later: Sequence[Edits], touched: Mask
    ) -> tuple[Mask, Float[Tensor, "variant asked d_out"]]:
        """The output under each change, at the read nodes that can differ.

        Args:
            first: where all of the changes are.
            later: of each variant, the hooks to be run in flight.
            touched: nodes that any of these hooks changes by itself.

        Returns:
            Which nodes those are, and the output there, in their order.
        """
        flight = self._in_flight(later)
        start = self._start(first, changes, touched, flight)
        if (start.nodes & ~self.read).any() and start.layer <= self.last:
            asked = start.nodes & self.read
            hidden, known = self._last_keys(start, flight)
            start = Start(self.last, asked, hidden[:, asked[start.nodes]])
            return asked, self._forward(start, flight, known=known)
        return start.nodes, self._forward(start, flight)

    def _start(self, first: First, changes: Sequence[Change], touched: Mask, flight: dict[str, Flight]) -> Start:
        """The first forward in which all that can differ takes part; what the change touches alone is run before it."""
        layer = first.layer
        if first.where == "entry":
            nodes = touched & self.read if layer > self.last else self.view.tree.below(touched)
            hidden = self._recorded(layer, nodes, len(changes))
            for row, change in enumerate(changes):
                hidden[row, change.nodes[nodes]] = change.value[nodes[change.nodes]]
            return Start(layer, nodes, hidden)
        reached = touched & self.read if layer == self.last else self.view.tree.below(touched)
        touched = touched & reached
        start = Start(layer, touched, self._recorded(layer, touched, len(changes)), first, changes)
        if bool((touched == reached).all()):
            return start
        arrived = self._forward(start, flight, until=layer + 1)
        hidden = self._recorded(layer + 1, reached, len(changes))
        hidden[:, touched[reached]] = arrived
        return Start(layer + 1, reached, hidden)

    def _recorded(self, layer: int, nodes: Mask, n: int) -> Float[Tensor, "variant started d_model"]:
        """The recorded stream at some nodes, once for each variant."""
        name = point_name("hook_resid_pre", layer) if layer <= self.last else point_name("hook_resid_post", self.last)
        return self.view.nodes(self.view.record.named[name])[nodes].repeat(n, 1, 1)

    def _forward(
        self, start: Start, flight: dict[str, Flight], *, until: int | None = None, known: Known | None = None
    ) -> Tensor:
        """The output, or what enters layer `until` [variant node ...]."""
        with ExitStack() as stack:
            seen = (
                [] if until is None else stop_at_entry(stack, self.modules[until])
            )  # before later hooks of that point
            self._prepare(stack, start, flight, known)
            if until is None and self.columns is not None:
                head = output_layer(self.adapter)
                stack.enter_context(replaced(head, narrow(head, self.columns)))
            try:
                return self.adapter.forward(self._inputs(start))
            except Reached:
                return seen[0]

    def _last_keys(self, start: Start, flight: dict[str, Flight]) -> tuple[Tensor, Known]:
        """What enters the last layer, and its keys and values; its queries would be waste."""
        with ExitStack() as stack:
            seen: list[Any] = []

            def keep(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> Any:
                seen.extend((key, value))
                raise Reached

            entry = self.modules[self.last].register_forward_pre_hook(partial(_look, seen), with_kwargs=True)
            stack.callback(entry.remove)  # before later hooks of that point
            self._prepare(stack, start, flight, None)
            stack.enter_context(attending(self.adapter, {self.last: keep}))
            if (query := separate_query(self.adapter, self.last)) is not None:
                stack.enter_context(replaced(query, partial(_zeros, query)))
            try:
                self.adapter.forward(self._inputs(start))
            except Reached:
                hidden, k, v = seen
            return hidden, Known(start.nodes, k, v)

    def _prepare(self, stack: ExitStack, start: Start, flight: dict[str, Flight], known: Known | None) -> None:
        """Take the layers over: begin at the start, attend to recorded keys, run later hooks in flight."""
        layout = self._layout(start.nodes, start.nodes if known is None else known.nodes)
        stack.enter_context(entered(self.adapter, start.layer, start.hidden, self.view.record.layer_tails))
        functions = {layer: partial(self._attend, layout, layer, known) for layer in range(start.layer, self.last + 1)}
        stack.enter_context(attending(self.adapter, functions))
        stack.enter_context(
            self.adapter.attached(
                {name: [partial(hook, start.nodes)] for name, hook in flight.items()}, self.view.record.batch
            )
        )
        for module in self.activations:
            stack.enter_context(replaced(module, FUSED[type(module).__name__]))
        if start.first is not None:
            self._begin_after_attention(stack, start)

    def _begin_after_attention(self, stack: ExitStack, start: Start) -> None:
        """The first layer's attention is not run: its recorded output stands in, with what differs."""
        assert start.first is not None
        record, block = self.view.record, self.adapter.block(start.layer)
        out = self.view.nodes(record.attention_outputs[start.layer])[start.nodes].repeat(len(start.changes), 1, 1)
        if start.first.where == "attention":
            out = out + self._written(start)
        else:
            write = self.view.nodes(record.named[point_name("hook_attn_out", start.layer)])[start.nodes]
            write = write.repeat(len(start.changes), 1, 1)
            for row, change in enumerate(start.changes):
                write[row, change.nodes[start.nodes]] = change.value[start.nodes[change.nodes]]
            if block.attn_write is block.out:
                out = write
            else:
                stack.callback(block.attn_write.register_forward_hook(lambda *_: write).remove)
        tail = record.attention_tails[start.layer]
        stack.enter_context(replaced(block.attn, lambda *_, **__: like(tail, out)))

    def _written(self, start: Start) -> Float[Tensor, "variant started d_model"]:
        """What differences of z add to the attention output: each variant's own heads times their part of W_O."""
        n, most = len(start.changes), max(len(change.heads) for change in start.changes)
        w_out = self.adapter.w_out(start.layer)
        heads = torch.zeros(n, most, dtype=torch.long)
        d_head = w_out.shape[1]
        delta = start.hidden.new_zeros(n, int(start.nodes.sum()), most, d_head)
        for row, change in enumerate(start.changes):
            heads[row, : len(change.heads)] = torch.tensor(change.heads, dtype=torch.long)
            delta[row, change.nodes[start.nodes], : len(change.heads)] = change.value[start.nodes[change.nodes]]
        return torch.bmm(delta.flatten(2), w_out[heads.to(w_out.device)].flatten(1, 2))

    def _attend(
        self,
        layout: Layout,
        layer: int,
        known: Known | None,
        _: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *__: Any,
        **___: Any,
    ) -> tuple[Tensor, None]:
        if known is not None:
            k, v = known.k, known.v
        return attend(layout, self.view.record.calls[layer], q, k, v), None

    def _layout(self, asks: Mask, changed: Mask) -> Layout:
        key = (asks.tobytes(), changed.tobytes())
        if key not in self.layouts:
            self.layouts[key] = lay_out(self.view.tree, asks, changed, self.positions.device)
        return self.layouts[key]

    def _inputs(self, start: Start) -> dict[str, Tensor]:
        """Inputs of the right shape; what they say apart from positions is replaced where the start enters."""
        n = len(start.hidden)
        positions = self.positions[start.nodes].repeat(n, 1)
        if "inputs_embeds" in self.adapter.takes:
            return {"inputs_embeds": start.hidden, "position_ids": positions}
        ids = self.view.nodes(self.view.record.batch.input_ids)[start.nodes].repeat(n, 1)
        return {"input_ids": ids, "position_ids": positions}

    def _in_flight(self, later: Sequence[Edits]) -> dict[str, Flight]:
        """One hook for each point that any variant edits later."""
        points = {point for hooks in later for point in hooks}
        return {
            point.name: partial(self._fly, point, [hooks.get(point, ()) for hooks in later])
            for point in sorted(points, key=lambda point: point.name)
        }

    def _fly(
        self, point: PointId, functions: Sequence[Sequence[HookFn]], nodes: Mask, value: Tensor, _: HookContext
    ) -> Tensor:
        """Each variant's own hooks, which see the whole activation: what runs now, and the recorded rest."""
        recorded = self.view.nodes(self.view.record.named[point.name])
        rows = []
        for row, hooks in zip(value, functions, strict=True):
            if hooks:
                table = recorded.clone()
                table[nodes] = row
                row = self.view.nodes(apply(hooks, self.view.tokens(table), point, self.view.record.batch))[nodes]
            rows.append(row)
        return torch.stack(rows)


Flight = Callable[[Mask, Tensor, HookContext], Tensor]


def _look(seen: list[Any], _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    seen.append(args[0] if args else kwargs["hidden_states"])


def _zeros(module: nn.Module, x: Tensor) -> Tensor:
    width: Any = module.weight
    return x.new_zeros(*x.shape[:-1], len(width))


def narrow(head: Any, columns: Int[Tensor, " column"] | None) -> Callable[[Tensor], Tensor]:
    """The output layer for some entries of the vocabulary alone."""
    weight, bias = head.weight, head.bias
    if columns is not None:
        weight, bias = weight[columns], None if bias is None else bias[columns]
    return partial(torch.nn.functional.linear, weight=weight, bias=bias)
