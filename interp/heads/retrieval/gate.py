"""A trained gate for every key/value head: how much of its sight of the whole text the answer needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.readout import Readout
from interp.heads.retrieval.restriction import last_stream
from interp.heads.scorer import Scorer, Scores
from interp.hooks.adapters.base import HookContext
from interp.hooks.adapters.registry import OPERATOR
from interp.hooks.batch import Batch
from interp.hooks.naive import batches
from interp.hooks.names import HeadId, point_name
from interp.hooks.pairs import Pairs
from interp.hooks.swap import attended
from interp.kernels.errors import InterpError
from interp.kernels.variants.streaming import Streaming

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Gates = dict[int, Float[Tensor, "prompt kv_head"]]


@dataclass(frozen=True, eq=False)
class Gate(Scorer):
    """The gate in [0, 1] of a head's key/value head, trained to be closed where the answer does not need it open.

    With gates a, every head writes `a * full + (1 - a) * streaming`, where streaming sees the first and the nearest
    tokens alone. All gates of all layers start open and learn together, by Adam, to lower

        mean over d of (x - x_a)^2 + penalty * mean(a),

    x being what the output layer reads (after the final norm) where the answer is read. Gates are clamped to [0, 1] after
    every step. The rate grows over the first fifth of the steps and falls over the last, as in the published code.
    Query heads that share a key/value head share its gate, so they have the same score. The weights of the model are
    not trained.

    Each prompt trains gates of its own, all prompts of a batch side by side, so that a score has a standard error and
    no prompt can speak for another. `trained_gates(..., shared=True)` trains the one gate of the paper for all prompts.

    Further ways in which the published code differs: it takes 2000 steps of one prompt each, at a rate of 0.02 and in
    bfloat16, with 128 sinks and 256 nearest tokens, and here texts are short and steps few and long; it counts hidden
    states at every token of ten passkeys, where here the one counts at which the answer is read; it clamps gates before
    a step and in the forward, so that those of the last step may lie outside [0, 1]; its streaming mask is made for a
    length that is rounded up to a multiple of 8, and cut. To make gates 0 or 1 it adds noise of up to 1e-6 against ties,
    from no seed, and raises an error where it is given a threshold alone. Here nothing is random.

    Attributes:
        sink_tokens, recent: what a closed head sees.
        penalty: the paper's lambda.
        steps, rate: of the training.

    Raises:
        InterpError: E205, sink_tokens under 0, recent under 1, no step, or a rate or penalty that is not above 0.
    """

    name: ClassVar[str] = "gate"
    source: ClassVar[str] = "Xiao et al. 2024, DuoAttention, arXiv 2410.10819, section 2.2; mit-han-lab/duo-attention"
    says: ClassVar[str] = "a gate trained to close stays open, because the answer needs what it sees far back"
    chance: ClassVar[str] = "a closed gate"
    operator: ClassVar[str] = "streaming"
    task: ClassVar[str] = "retrieval"
    options: ClassVar[Mapping[str, Any]] = {"length": 128}

    sink_tokens: int = 4
    recent: int = 16
    penalty: float = 0.05
    steps: int = 30
    rate: float = 0.05

    def __post_init__(self) -> None:
        self.closed()
        if self.steps < 1 or self.rate <= 0 or self.penalty <= 0:
            what = f"{self.steps} steps, a rate of {self.rate:g} and a penalty of {self.penalty:g}"
            raise InterpError("E205", what, where="scorer gate", fix="steps=30, rate=0.05, penalty=0.05")

    def closed(self) -> Streaming:
        """What a head with a closed gate runs."""
        return Streaming(sink_tokens=self.sink_tokens, recent=self.recent)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        parts = []
        for start, stop in batches(len(pairs), batch_size):
            batch = pairs.clean.rows(start, stop).to(model.device)
            gates = trained_gates(model, batch, pairs.read_at[start:stop].to(model.device), self)
            parts.append(torch.stack([gates[head.layer][:, model.kv_head(head)] for head in heads]).double().cpu())
        values = torch.cat(parts, 1)
        shared = any(a > b for a, b in zip(model.heads[""], model.kv_heads[""], strict=True))
        notes = ("Query heads that share a key/value head share its gate, and with it their score.",) if shared else ()
        return Scores(values.numpy(), torch.zeros_like(values).numpy(), notes=notes)


def trained_gates(
    model: HookedModel, batch: Batch, read_at: Tensor, asked: Gate | None = None, *, shared: bool = False
) -> Gates:
    """Gates of every layer, trained on these prompts.

    Args:
        read_at: position of each prompt where the answer is read.
        asked: sizes and training; those of `Gate()` by default.
        shared: one gate for all prompts (the rows are equal), as in the paper, from their mean loss; else each its own.
    """
    asked = asked or Gate()
    readout, layers = Readout.of(model), [layer for layer, n in enumerate(model.kv_heads[""]) if n]
    with torch.no_grad():
        whole = last_stream(model, readout, batch, read_at)
    rows = 1 if shared else len(read_at)
    gates = {
        layer: torch.ones(rows, model.kv_heads[""][layer], device=model.device, requires_grad=True) for layer in layers
    }
    adam = torch.optim.Adam(gates.values(), lr=asked.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rate_share(step, asked.steps))
    for _ in range(asked.steps):
        loss = objective(model, readout, batch, read_at, whole, gates, asked)
        found = torch.autograd.grad(loss.mean() if shared else loss.sum(), list(gates.values()))
        for gate, slope in zip(gates.values(), found, strict=True):
            gate.grad = slope
        adam.step()
        schedule.step()
        with torch.no_grad():
            for gate in gates.values():
                gate.clamp_(0, 1)
    return {layer: gate.detach().expand(len(read_at), -1) for layer, gate in gates.items()}


def rate_share(step: int, steps: int) -> float:
    """Share of the rate at a step: up over the first fifth, down over the last, never under a tenth."""
    fifth = max(steps // 5, 1)
    return min(1.0, max((step + 1) / fifth, 0.1), max((steps - step) / fifth, 0.1))


class Gated:
    """Hook on `attn.hook_operator`: every head between its own attention and the streaming one."""

    def __init__(self, gate: Float[Tensor, "#prompt kv_head"], closed: Streaming) -> None:
        self.gate, self.closed = gate, closed

    def __call__(self, value: Tensor, context: HookContext) -> Float[Tensor, "batch pos head d_head"]:
        call = context.call
        assert call is not None, f"{context.name} was not told what attention was called with"
        streaming = attended(call, self.closed).output.transpose(1, 2)
        gate = self.gate.repeat_interleave(value.shape[2] // self.gate.shape[1], dim=1)[:, None, :, None]
        return gate * value + (1 - gate) * streaming


def objective(
    model: HookedModel,
    readout: Readout,
    batch: Batch,
    read_at: Tensor,
    whole: Float[Tensor, "batch d_model"],
    gates: Gates,
    asked: Gate,
) -> Float[Tensor, " batch"]:
    """The objective of each prompt."""
    last = point_name("hook_resid_post", model.n_layers - 1)
    seen: list[Tensor] = []
    hooks: dict[str, Any] = {point_name(OPERATOR, layer): Gated(gate, asked.closed()) for layer, gate in gates.items()}
    model.run_with_hooks(batch, {**hooks, last: lambda value, _: seen.append(value)}, grad=True)
    stream = seen[0][torch.arange(len(read_at), device=read_at.device), read_at]
    normed = stream if readout.norm_module is None else readout.norm_module(stream)
    change = (normed.double() - whole).square().mean(-1)
    return change + asked.penalty * torch.cat(list(gates.values()), 1).mean(1)
