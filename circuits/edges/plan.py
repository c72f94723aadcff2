"""What scoring edges costs, told beforehand: forwards, operations and memory, and how many prompts go together.

Two sizes of a model are measured rather than derived, because every architecture keeps something else for a backward
pass: what a forward holds, and what a forward and a backward hold, for a token. That takes two short prompts. Of a model
without weights, whose tensors are fake, the plain passes tell nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from interp.circuits.edges.attribution import CHUNK, PULL, positions_at_once
from interp.circuits.edges.gradients import gradients
from interp.circuits.edges.methods import Settings
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.graph import Graph
from interp.circuits.graph.lean import lean
from interp.circuits.question import Question
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.adapters.structure import find_towers
from interp.hooks.metrics import metric
from interp.hooks.rerun.cost import Cost
from interp.hooks.rerun.memory import peak
from interp.kernels.errors import InterpError

WIDTHS = (16, 48)
"""Tokens of the two prompts that a shape is measured on."""

PLANNED = ("eap", "eap-denoise", "clean-corrupted", "eap-ig")
"""Methods that are planned: those that take gradients along a path of embeddings."""


@dataclass(frozen=True)
class Held:
    """Bytes that a pass holds at its peak, beside the weights."""

    token: float
    prompt: float

    def of(self, batch: int, width: int) -> float:
        """For some prompts of a width."""
        return batch * (width * self.token + self.prompt)

    @classmethod
    def measured(cls, run: Callable[[int], object]) -> Held:
        """Of a pass over one prompt of a width: what two widths tell."""
        short, long = (peak(partial(run, width)) for width in WIDTHS)
        token = (long - short) / (WIDTHS[1] - WIDTHS[0])
        return cls(token, max(0.0, short - WIDTHS[0] * token))


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; made by `Shape.of` or `Shape.without_weights`.

    Attributes:
        d_model, d_head: numbers of the stream, and of a head.
        item: bytes of a number.
        token, pair, logits: multiply-adds of a forward, for a token, for two tokens of a prompt, and for the logits of
            one position.
        backward: what a forward and a backward hold.
    """

    d_model: int
    d_head: int
    item: int
    token: int
    pair: int
    logits: int
    backward: Held

    @classmethod
    def of(cls, flow: Flow) -> Shape:
        """Of a model at hand."""
        known = cls.without_weights(flow.model.adapter.model)  # type: ignore[attr-defined]

        def pull(width: int) -> None:
            batch = flow.model.batch([[0] * width])
            answers = (torch.tensor([token], device=flow.model.device) for token in (0, 1))
            asked = Question(batch, batch.end, metric("logit_diff"), *answers)
            entering = torch.zeros(1, width, known.d_model, dtype=flow.model.dtype, device=flow.model.device)
            gradients(flow, asked, entering)

        return replace(known, backward=Held.measured(pull))

    @classmethod
    def without_weights(cls, model: nn.Module) -> Shape:
        """Of a transformers model with a vocabulary, also of fake tensors (torch's `FakeTensorMode`)."""
        adapter = object.__new__(HuggingFaceAdapter)  # costs are told from the shapes of weights alone
        adapter.model, adapter.projections = model, {}
        adapter.towers = {tower.name: tower for tower in find_towers(model)}
        cost = Cost.of(adapter)
        item, blocks = next(model.parameters()).element_size(), adapter.towers[""].blocks
        tapped = item * sum((block.n_heads + block.n_kv_heads) * block.d_head for block in blocks.values())
        with lean(adapter):
            backward = Held.measured(partial(_run, model))
        return cls(
            cost.entry, blocks[0].d_head, item, sum(layer.token for layer in cost.layers),
            sum(layer.pair for layer in cost.layers), cost.entry * cost.entries,
            replace(backward, token=backward.token + tapped),
        )  # fmt: skip


def _run(model: Any, width: int) -> None:
    """One prompt of zeros, read at its end; the gradient is pulled back to what enters the first layer."""
    asked = [one for one in model.parameters() if one.requires_grad]
    handles = [
        model.get_input_embeddings().register_forward_hook(lambda *call: call[-1].detach().requires_grad_()),
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][:, -1:],)),
    ]
    try:
        for one in asked:
            one.requires_grad_(False)
        with torch.enable_grad():
            ids = torch.zeros(1, width, dtype=torch.long, device=next(model.parameters()).device)
            model(input_ids=ids, use_cache=False).logits.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        for one in asked:
            one.requires_grad_(True)


@dataclass(frozen=True)
class EdgePlan:
    """How prompts are scored, and what that costs.

    Attributes:
        prompts, batch, width: all prompts, those that go together, and their tokens.
        forwards: of one prompt, in all; a backward counts as two.
        flops: floating point operations.
        bytes: held at most, beside the weights.
        budget: that was allowed; None for any number.
    """

    method: str
    edges: int
    prompts: int
    batch: int
    width: int
    forwards: float
    flops: int
    bytes: int
    budget: int | None

    def __str__(self) -> str:
        allowed = "" if self.budget is None else f", of {self.budget / 2**20:.4g} allowed"
        return "\n".join(
            (
                f"{self.method}: {self.edges} edges on {self.prompts} prompts of {self.width} tokens, {self.batch} at a time",
                f"{self.forwards:.4g} forwards of a prompt, {self.flops / 1e9:.4g} GFLOP",
                f"{self.bytes / 2**20:.4g} MiB at most{allowed}",
            )
        )


def plan(
    graph: Graph,
    shape: Shape,
    *,
    prompts: int,
    width: int,
    method: str = "eap",
    settings: Settings | None = None,
    paired: bool = True,
    behind_norm: bool = False,
    batch: int | None = None,
    budget: int | None = None,
    chunk: int = CHUNK,
) -> EdgePlan:
    """What scoring all edges on some prompts costs; nothing runs.

    Args:
        prompts, width: how many, and their tokens.
        paired: whether what stands in for a writer is another for every prompt (resample).
        behind_norm: whether a norm stands behind heads, see `Flow.norms`.
        batch: prompts that go together; None for as many as the budget holds.
        budget: bytes.
        chunk: see `Contrast`.

    Raises:
        InterpError: E205 a method that is not planned; E603 a budget that does not hold one prompt.
    """
    if method not in PLANNED:
        raise InterpError("E205", f"memory of {method!r} is not planned", fix=f"plan one of {', '.join(PLANNED)}")
    settings = settings or Settings()
    pulls = _pulls(method, settings)
    memory = Memory(graph, shape, width, paired, behind_norm, chunk, prompts, pulls)
    if batch is None:
        batch = prompts if budget is None else memory.fitting(budget, prompts)
    held = memory.bytes(batch)
    if budget is not None and held > budget:
        raise InterpError(
            "E603",
            f"{batch} prompt{'s' if batch > 1 else ''} of {width} tokens need {held / 2**20:.4g} MiB of {budget / 2**20:.4g} allowed",
            where=f"{method} on {graph.n_edges} edges",
            fix="allow more memory, use shorter prompts or fewer at a time, or open the model with dtype='bfloat16'",
        )
    forwards = prompts * (pulls * PULL + 1 + paired)
    passes = prompts * (2 * pulls + 1 + paired)  # a backward that leaves weights alone costs one forward
    one = width * shape.token + width * width * shape.pair + shape.logits
    flops = 2 * (passes * one + prompts * width * pulls * _products(graph, shape))
    return EdgePlan(method, graph.n_edges, prompts, batch, width, forwards, flops, held, budget)


def _pulls(method: str, settings: Settings) -> int:
    """Forwards with a backward, for each prompt."""
    steps = settings.steps + (settings.rule == "trapezoid")
    return {"clean-corrupted": 2, "eap-ig": steps}.get(method, 1)


def _products(graph: Graph, shape: Shape) -> int:
    """Multiply-adds for a token: what heads wrote and readers' gradients in the stream, and their inner products."""
    parts = sum(2 * layer.heads + 2 * layer.kv_heads for layer in graph.layers)
    return (parts * shape.d_head + int(graph.exists.sum())) * shape.d_model


@dataclass(frozen=True)
class Memory:
    """What is held at most while edges are scored along a path; numbers are counted for a token.

    Attributes: see `plan`.
    """

    graph: Graph
    shape: Shape
    width: int
    paired: bool
    behind_norm: bool
    chunk: int
    prompts: int
    pulls: int

    @property
    def written(self) -> int:
        """What all writers wrote."""
        d, head = self.shape.d_model, self.shape.d_model if self.behind_norm else self.shape.d_head
        embeddings = sum(part.layer is None for part in self.graph.writers)
        return embeddings * d + sum(layer.heads * head + layer.has_mlp * d for layer in self.graph.layers)

    @property
    def pulled(self) -> int:
        """What a backward leaves: gradients at queries, keys, values, MLPs and logits, and the streams read."""
        d, per_head = self.shape.d_model, self.shape.d_head
        each = [(layer.heads + 2 * layer.kv_heads) * per_head + (1 + layer.has_mlp) * d for layer in self.graph.layers]
        return sum(each) + d

    @property
    def widest(self) -> int:
        """Readers of a layer, at most."""
        return max(layer.heads + 2 * layer.kv_heads for layer in self.graph.layers)

    def bytes(self, batch: int) -> int:
        """For some prompts at a time."""
        shape, item, n = self.shape, self.shape.item, batch * self.width
        writers, d = len(self.graph.writers), shape.d_model
        copies = sum(layer.heads + 2 * layer.kv_heads for layer in self.graph.layers) * shape.d_head * d * item
        kept = n * self.written * item * (2 + self.paired)  # clean, ablated, and their difference
        scores = batch * len(self.graph.places) * self.graph.exists.size * item
        step = positions_at_once(batch, self.width, writers * d * item, self.chunk)
        laid_out = batch * step * writers * d * item
        runs = n * d * item + shape.backward.of(batch, self.width)
        readers = batch * step * self.widest * (d + 2 * shape.d_head) * item
        scoring = n * self.pulled * item + readers + 2 * scores
        is_again = self.pulls > 1 or batch < self.prompts  # copies of weights are made after the first run
        return round(kept + laid_out + scores + max(runs + is_again * copies, scoring + copies))

    def fitting(self, budget: int, most: int) -> int:
        """Prompts that a budget holds, one at least."""
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes(middle) <= budget else (low, middle - 1)
        return low
