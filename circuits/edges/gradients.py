"""One forward and backward: the gradient of a metric at what every reader of a graph reads.

Nothing of the size of all readers is stored. Kept are gradients where they are small: at queries, keys and values
(d_head numbers a head), and at what MLPs and the logits read. `Gradients.at` turns some positions of them into gradients in
the stream, through the weights and the norm before each reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.graph.flow import MLP_IN, Flow, Stream
from interp.circuits.graph.lean import lean, reading_at
from interp.circuits.question import Question
from interp.circuits.writes import POST, PRE
from interp.hooks.adapters.base import HookContext, HookFn
from interp.hooks.naive import read_output
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

Shift = Mapping[str, Stream]
"""Hook point -> what is added to its value."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of the sum over prompts of a metric, so that each prompt's are its own.

    Attributes:
        values: the metric.
        output: what the metric saw.
        streams: layer -> what its heads read, before their norm.
        heads: layer -> 'q', 'k', 'v' -> gradient at what its projections gave [batch pos head d_head].
        mlps: layer -> gradient at what its MLP reads, before its norm.
        logits: gradient at the last stream.
    """

    flow: Flow
    values: Float[Tensor, " batch"]
    output: Float[Tensor, "batch d_out"]
    streams: Mapping[int, Stream]
    heads: Mapping[int, Mapping[str, Tensor]]
    mlps: Mapping[int, Stream]
    logits: Stream

    def at(self, rows: slice) -> Iterator[tuple[slice, Float[Tensor, "batch some_pos reader d_model"]]]:
        """Gradients in the stream at some positions, layer by layer: which readers, and theirs."""
        first = 0
        for layer, shape in enumerate(self.flow.graph.layers):
            size = shape.heads + 2 * shape.kv_heads
            yield slice(first, first + size), self._heads(layer, rows)
            first += size
            if shape.has_mlp:
                yield slice(first, first + 1), self.mlps[layer][:, rows, None]
                first += 1
        yield slice(first, first + 1), self.logits[:, rows, None]

    def _heads(self, layer: int, rows: slice) -> Float[Tensor, "batch some_pos reader d_model"]:
        here = {part: value[:, rows] for part, value in self.heads[layer].items()}
        return self.flow.entrances[layer].pull(here, self.streams[layer][:, rows])


@contextmanager
def frozen(model: HookedModel) -> Iterator[None]:
    """No gradient is computed or prepared for weights inside the block."""
    asked = [one for one in model.adapter.model.parameters() if one.requires_grad]  # type: ignore[attr-defined]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def gradients(
    flow: Flow,
    question: Question,
    entering: Stream,
    *,
    reference: Float[Tensor, "batch d_out"] | None = None,
    shift: Shift | None = None,
) -> Gradients:
    """Run prompts with `entering` as the stream that enters the first layer, and pull the metric back.

    Args:
        reference: output of the untouched model, for metrics that compare with it.
        shift: added to activations on the way.

    Raises:
        InterpError: E407 where the metric has no gradient on this model.
    """
    taps: dict[str, Tensor] = {}
    streams: dict[int, Tensor] = {}
    with frozen(flow.model), torch.enable_grad():
        output = _run(flow, question, _hooks(flow, entering, taps, streams, shift or {}))
        values = question.measure(output, 0, len(output), reference)
        if not values.requires_grad:
            raise _no_gradient(flow, question, f"metric {question.metric.name!r} has no gradient")
        try:
            pulls = torch.autograd.grad(values.sum(), list(taps.values()), allow_unused=True)
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented" not in str(error) and "does not require grad" not in str(error):
                raise
            what = f"a part of the model has no gradient ({str(error).splitlines()[0]})"
            raise _no_gradient(flow, question, what) from error
    if lost := [name for name, pull in zip(taps, pulls, strict=True) if pull is None]:
        raise _no_gradient(flow, question, f"no gradient comes back to {lost[0]}: a later part of the model cuts it")
    found = dict(zip(taps, pulls, strict=True))
    layers = range(flow.n_layers)
    heads = {layer: {part: found[point_name(f"attn.hook_{part}", layer)] for part in "qkv"} for layer in layers}
    mlps = {layer: found[point_name(MLP_IN, layer)] for layer in layers if flow.graph.layers[layer].has_mlp}
    last = found[point_name(POST, flow.n_layers - 1)]
    return Gradients(flow, values.detach(), output.detach(), streams, heads, mlps, last)


def _no_gradient(flow: Flow, question: Question, what: str) -> InterpError:
    """E407, with what to do instead."""
    return InterpError(
        "E407",
        f"{what} on {flow.model.name}",
        where=str(flow.model.adapter.describe()["architecture"]),
        fix="choose another metric, such as logit_diff; weights that are not quantised; or a method without "
        "gradients: --method exact",
    )


def _hooks(
    flow: Flow, entering: Stream, taps: dict[str, Tensor], streams: dict[int, Tensor], shift: Shift
) -> dict[str, list[HookFn]]:
    """Taps at every reader, behind the shifts."""
    leaf = entering.detach().requires_grad_()
    hooks: dict[str, list[HookFn]] = {point_name(PRE, 0): [lambda *_: leaf]}
    for name, value in shift.items():
        hooks.setdefault(name, []).append(partial(_shifted, value))
    for layer, shape in enumerate(flow.graph.layers):
        hooks.setdefault(point_name(PRE, layer), []).append(partial(_keep, streams, layer))
        for kind in ("attn.hook_q", "attn.hook_k", "attn.hook_v", *([MLP_IN] if shape.has_mlp else [])):
            hooks[point_name(kind, layer)] = [partial(_tap, taps)]
    hooks.setdefault(point_name(POST, flow.n_layers - 1), []).append(partial(_tap, taps))
    return hooks


def _run(flow: Flow, question: Question, hooks: Mapping[str, list[HookFn]]) -> Float[Tensor, "batch d_out"]:
    """What the metric sees."""
    return run_read(flow.model, question, lambda: flow.model.run_with_hooks(question.batch, hooks, grad=True))


def run_read(model: HookedModel, question: Question, run: Callable[[], Tensor]) -> Float[Tensor, "batch d_out"]:
    """What the metric sees of a forward, with the output layer run where it is read alone."""
    with lean(model.adapter), reading_at(model, question.batch, question.read_at) as is_short:
        output = run()
    return output[:, 0] if is_short else read_output(output, question.batch, question.read_at)


def _tap(taps: dict[str, Tensor], value: Tensor, context: HookContext) -> Tensor:
    """What the reader reads from here on, a tensor of its own: its gradient is the reader's alone."""
    taps[context.name] = value.view_as(value)
    return taps[context.name]


def _keep(streams: dict[int, Tensor], layer: int, value: Tensor, _: HookContext) -> None:
    streams[layer] = value.detach()


def _shifted(shift: Stream, value: Tensor, _: HookContext) -> Tensor:
    return value + shift
