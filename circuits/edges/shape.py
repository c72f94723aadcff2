"""Sizes of a model that decide what scoring edges costs.

What passes hold is measured rather than derived, because every architecture keeps something else for a backward pass. That
takes three short prompts: some attention holds something for every two tokens. Of a model without weights, whose tensors
are fake, the plain passes tell nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from interp.circuits.edges.gradients import gradients
from interp.circuits.graph.flow import Flow
from interp.circuits.graph.lean import lean
from interp.circuits.question import Question
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.adapters.structure import find_towers
from interp.hooks.metrics import metric
from interp.hooks.reader import n_positions
from interp.hooks.rerun.cost import Cost
from interp.hooks.rerun.memory import peak
from interp.kernels.errors import InterpError

WIDEST = 48
"""Tokens of the longest prompt that a model is measured on, where it can read as many."""

Widths = tuple[int, int, int]


def widths(model: Any) -> Widths:
    """Tokens of the prompts that a transformers model is measured on."""
    most = min(WIDEST, n_positions(model.config) or WIDEST)
    return max(1, most // 3), max(2, 2 * most // 3), max(3, most)


@dataclass(frozen=True)
class Held:
    """Bytes that a pass holds at its peak, beside the weights: for a token, for two tokens of a prompt, and for a prompt."""

    token: float = 0.0
    pair: float = 0.0
    prompt: float = 0.0

    def of(self, batch: int, width: int) -> float:
        """For some prompts of a width."""
        return batch * (width**2 * self.pair + width * self.token + self.prompt)

    @classmethod
    def fitted(cls, at: Widths, held: Sequence[int]) -> Held:
        """From what was held at three widths."""
        early, late = ((held[i + 1] - held[i]) / (at[i + 1] - at[i]) for i in (0, 1))
        pair = max(0.0, (late - early) / (at[2] - at[0]))
        token = max(0.0, late - pair * (at[1] + at[2]))
        return cls(token, pair, max(0.0, held[2] - token * at[2] - pair * at[2] ** 2))

    @classmethod
    def measured(cls, at: Widths, run: Callable[[int], object]) -> Held:
        """Of a pass over one prompt of a width."""
        return cls.fitted(at, [peak(partial(run, width)) for width in at])


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

        try:
            return replace(known, backward=Held.measured(widths(flow.model.adapter.model), pull))  # type: ignore[attr-defined]
        except InterpError as error:
            if error.code != "E407":
                raise
            return replace(known, backward=Held())  # methods that need a gradient say so themselves

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
            backward = Held.measured(widths(model), partial(_run, model))
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
