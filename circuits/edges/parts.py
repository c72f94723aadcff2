"""Single parts of a model, run by themselves: an MLP on some vectors, the attention of a layer, the output layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.graph.flow import MLP_IN
from interp.circuits.writes import ATTN, MLP, POST, PRE, Z
from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.batch import Batch
from interp.hooks.names import point_name
from interp.hooks.rerun.cost import Cost
from interp.hooks.rerun.layers import repeated
from interp.hooks.rerun.record import Record, record
from interp.hooks.rerun.restart import Reached, attending, entered, like, replaced


class Parts:
    """Parts of a model on some prompts; the model's own modules compute them.

    Args:
        runs: their counter of forwards is raised by the share of a full forward's multiply-adds that is computed; a
            full forward runs its output layer at one position of each prompt. Norms and sums are not counted.
    """

    def __init__(self, runs: MaskedRuns) -> None:
        self.runs, self.flow, self.question = runs, runs.flow, runs.contrast.question
        adapter = self.flow.model.adapter
        assert isinstance(adapter, HuggingFaceAdapter)
        self.adapter, self.cost = adapter, Cost.of(adapter)
        self.recorded = self._record()
        self.width = self.recorded.width
        layers = sum(self.width * one.token + self.width**2 * one.pair for one in self.cost.layers)
        self.full = self.question.batch.size * (layers + self.cost.entry * self.cost.entries)

    def _record(self) -> Record:
        """The clean run: what every layer read and made."""
        names = [point_name(POST, self.flow.n_layers - 1)]
        for layer, shape in enumerate(self.flow.graph.layers):
            kinds = ["attn.hook_q", "attn.hook_k", "attn.hook_v", Z, *([MLP_IN] if shape.has_mlp else [])]
            names += [point_name(kind, layer) for kind in kinds]
        self.runs.forwards += 1
        return record(self.adapter, self.question.batch, names, range(self.flow.n_layers))

    def clean(self, kind: str, layer: int) -> Tensor:
        """A value of the clean run."""
        return self.recorded.named[point_name(kind, layer)]

    def count(self, operations: int) -> None:
        """Multiply-adds that were computed."""
        self.runs.forwards += operations / self.full

    def mlp(self, layer: int, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What an MLP writes where it reads these vectors; attention has no part in it."""
        written: list[Tensor] = []
        tokens = rows[:, None]
        block: Any = self.adapter.block(layer)
        idle = like(self.recorded.attention_tails[layer], torch.zeros_like(tokens))
        hooks: dict[str, list[HookFn]] = {
            point_name(MLP_IN, layer): [lambda *_: tokens],
            point_name(MLP, layer): [partial(_reached, written)],
        }
        self.count(len(rows) * self.cost.layers[layer].mlp)
        with replaced(block.attn, lambda *_, **__: idle), attending(self.adapter, {}):
            self._forward(layer, tokens, hooks, _vectors(tokens))
        return written[0][:, 0]

    def attention(
        self, layer: int, given: Mapping[str, Float[Tensor, "trial batch pos some_head d_head"]]
    ) -> tuple[Float[Tensor, "trial batch pos head d_head"], Tensor | None]:
        """z of all heads of a layer from 'q', 'k' and 'v', and what attention wrote where a norm stands behind it."""
        n = len(given["q"])
        seen: list[Tensor] = []
        wanted = Z if self.flow.norms[layer] is None else ATTN
        hooks: dict[str, list[HookFn]] = {
            point_name(f"attn.hook_{kind}", layer): [partial(_put, given[kind].flatten(0, 1))] for kind in "qkv"
        }
        hooks[point_name(Z, layer)] = [lambda value, _: seen.append(value)]
        hooks.setdefault(point_name(wanted, layer), []).append(partial(_reached, seen))
        self.count(n * self.question.batch.size * self.width**2 * self.cost.layers[layer].pair)
        with ExitStack() as stack:
            self._skip_projections(stack, layer)
            self._forward(layer, self.clean(PRE, layer).repeat(n, 1, 1), hooks, repeated(self.question.batch, n))
        if wanted == ATTN:
            self.count(seen[0].numel() * seen[-1].shape[-1])
        return seen[0].unflatten(0, (n, -1)), (None if wanted == Z else seen[-1])

    def _skip_projections(self, stack: ExitStack, layer: int) -> None:
        """What the projections of a layer would make is replaced in any case."""
        for projection in self.adapter.projections["", layer].values():
            heads = projection.count
            if projection.layout != "separate":
                heads = projection.n_heads + 2 * projection.n_kv_heads
            stack.enter_context(replaced(projection.module, partial(_nothing, heads * projection.d_head)))

    def _forward(self, layer: int, hidden: Tensor, hooks: Mapping[str, Sequence[HookFn]], batch: Batch) -> None:
        """A forward from a layer on, until a hook has seen what it wanted."""
        with ExitStack() as stack:
            stack.enter_context(entered(self.adapter, layer, hidden, self.recorded.layer_tails))
            stack.enter_context(self.adapter.attached({name: list(some) for name, some in hooks.items()}, batch))
            try:
                self.adapter.forward(batch.inputs)
            except Reached:
                return
        raise AssertionError("the layer did not run")

    def measured(self, last: Float[Tensor, "trial batch pos d_model"]) -> Float[Tensor, "trial batch"]:
        """The metric of last streams; the output layer runs where it is read."""
        rows = torch.arange(last.shape[1], device=last.device)
        hidden = last[:, rows, self.question.read_at.to(last.device)].flatten(0, 1)[:, None]
        self.count(len(hidden) * self.cost.entry * self.cost.entries)
        with entered(self.adapter, self.flow.n_layers, hidden, self.recorded.layer_tails):
            output = self.adapter.forward(_vectors(hidden).inputs)[:, 0]
        return self.runs.measured(output.unflatten(0, (len(last), -1)))


def _vectors(hidden: Float[Tensor, "row 1 d_model"]) -> Batch:
    """A batch of one-token prompts, for modules that look at one position."""
    return Batch({"input_ids": torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)})


def _put(value: Tensor, given: Tensor, _: HookContext) -> Tensor:
    return value.to(given.dtype)


def _reached(seen: list[Tensor], value: Tensor, _: HookContext) -> None:
    seen.append(value)
    raise Reached


def _nothing(width: int, given: Tensor) -> Tensor:
    return given.new_zeros(*given.shape[:-1], width)
