"""Exact effects of single edges: one writer's part in one reader's input is replaced, everything after it is run again.

For models small enough that every edge can be tried. Plain forwards with hooks of its own, so that what the rest of the
toolkit finds can be held against it. Edges are named as in `interp.zoo.truth.Truth`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from interp.kernels.backends.eager import attention_pattern, attention_scores, repeat_kv, z_from_pattern
from interp.zoo.ports import Layer, Ports, find_ports

NAME = "zoo_edges"
Stream = Float[Tensor, "batch pos d_model"]
Copies = Float[Tensor, "copy pos d_model"]
Measure = Callable[[Float[Tensor, "edge batch pos d_vocab"], Float[Tensor, "batch pos d_vocab"]], Tensor]


def squared_difference(
    edited: Float[Tensor, "edge batch pos d_vocab"], clean: Float[Tensor, "batch pos d_vocab"]
) -> Float[Tensor, " edge"]:
    """Mean squared difference of the logits."""
    return reduce((edited - clean) ** 2, "edge batch pos d_vocab -> edge", "mean")


def sweep(
    model: Any,
    clean: Int[Tensor, "batch pos"],
    corrupt: Int[Tensor, "batch pos"] | None = None,
    *,
    at: slice = slice(None),
    measure: Measure = squared_difference,
) -> dict[str, float]:
    """What replacing each edge, alone, does to the logits.

    The reader sees the stream with the writer's clean contribution taken out and another one put in; norms are computed
    anew on that. q, k and v of a head are what its scores and sums are made of: after rotation, and after norms, which
    may span heads and are computed on the whole of the new input. Biases of output projections belong to no head; the MLP's own belongs to it. Where heads write through
    a norm, a head's contribution is its part of the sum, scaled as the sum was in that run.

    Args:
        model: of a family that `find_ports` knows; it is left as it is.
        corrupt: prompts whose contributions come in ("resample"); zeros where None ("zero").
        at: positions whose logits are compared.
        measure: of edited and clean logits.
    """
    model = copy.deepcopy(model).eval()
    model.config._attn_implementation_internal = NAME
    ports = find_ports(model)
    with torch.no_grad():
        writes, logits = record(model, ports, clean)
        others = None if corrupt is None else record(model, ports, corrupt)[0]
        trial = Trial(model, clean, lambda edited: measure(edited, logits[:, at]), at)
        change = {w: (torch.zeros_like(x) if others is None else others[w]) - x for w, x in writes.items()}
        return dict(_effects(trial, ports, change))


def mattering(effects: Mapping[str, float], floor: float) -> list[str]:
    """Edges whose effect is more than `floor` times the largest one, in order of computation."""
    least = floor * max(effects.values())
    return [edge for edge, effect in effects.items() if effect > least]


@dataclass(frozen=True)
class Trial:
    """Runs of one model on one batch of prompts, once for each of several changes."""

    model: Any
    ids: Int[Tensor, "batch pos"]
    measure: Callable[[Tensor], Tensor]
    at: slice

    def run(self, n: int) -> Float[Tensor, " edge"]:
        """The measure of `n` copies of the prompts, which hooks make differ."""
        logits = self.model(self.ids.repeat(n, 1)).logits[:, self.at]
        return self.measure(rearrange(logits, "(edge batch) pos vocab -> edge batch pos vocab", edge=n))


def record(model: Any, ports: Ports, ids: Int[Tensor, "batch pos"]) -> tuple[dict[str, Stream], Tensor]:
    """What every writer adds to the stream, in order of computation, and the logits."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        seen[module] = (inputs[0], output[0] if isinstance(output, tuple) else output)

    watched = [*ports.embeddings.values()]
    for layer in ports.layers:
        watched += [module for module in (layer.out, layer.mlp_out) if module is not None]
    with ExitStack() as stack:
        for module in watched:
            stack.callback(module.register_forward_hook(keep).remove)
        logits = model(ids).logits
    writes = {name: seen[module][1].expand(len(ids), -1, -1) for name, module in ports.embeddings.items()}
    for index, layer in enumerate(ports.layers):
        results = head_results(layer, ports.heads, *seen[layer.out])
        writes |= {f"L{index}H{head}": result for head, result in enumerate(results.unbind(2))}
        if layer.mlp_out is not None:
            writes[f"M{index}"] = seen[layer.mlp_out][1]
    return writes, logits


def head_results(
    layer: Layer, heads: int, z: Float[Tensor, "batch pos width"], total: Stream
) -> Float[Tensor, "batch pos head d_model"]:
    """What each head adds to the stream."""
    weight = layer.out.weight if type(layer.out).__name__ == "Conv1D" else layer.out.weight.T
    results = einsum(
        rearrange(z, "batch pos (head d) -> batch pos head d", head=heads),
        rearrange(weight, "(head d) model -> head d model", head=heads),
        "batch pos head d, head d model -> batch pos head model",
    )
    if layer.attn_norm is None:
        return results
    mean_square = reduce(total**2, "batch pos model -> batch pos 1 1", "mean")
    return results * torch.rsqrt(mean_square + layer.attn_norm.variance_epsilon) * layer.attn_norm.weight


def _effects(trial: Trial, ports: Ports, change: Mapping[str, Stream]) -> Iterator[tuple[str, float]]:
    """Every edge with its effect, reader after reader."""
    earlier = list(ports.embeddings)
    for index, layer in enumerate(ports.layers):
        labels = [f"L{index}H{head}" for head in range(ports.heads)]
        mlp_reads = list(earlier) if layer.parallel else earlier + labels
        for reader, found in _into_heads(trial, layer, labels, _stacked(change, earlier)):
            yield from _named(earlier, reader, found)
        earlier += labels
        if layer.mlp_in is not None:
            with _shifted(layer.mlp_in, _stacked(change, mlp_reads)):
                yield from _named(mlp_reads, f"M{index}", trial.run(len(mlp_reads)))
            earlier.append(f"M{index}")
    with _shifted(ports.final, _stacked(change, earlier)):
        yield from _named(earlier, "logits", trial.run(len(earlier)))


def _into_heads(
    trial: Trial, layer: Layer, labels: list[str], shift: Copies
) -> Iterator[tuple[str, Float[Tensor, " edge"]]]:
    """Effects of the edges into q, k and v of each head of a layer: first they are computed, then put in one by one."""
    n = len(shift) // len(trial.ids)
    found: list[Tensor] = []

    def keep(qkv: list[Tensor]) -> list[Tensor]:
        found.extend(qkv)
        return qkv

    with _shifted(layer.attn_in, shift), _tapped(layer.attn, keep):
        trial.run(n)
    for head, label in enumerate(labels):
        for part, name in enumerate("qkv"):

            def put(qkv: list[Tensor], part: int = part, head: int = head) -> list[Tensor]:
                qkv[part] = qkv[part].clone()
                qkv[part][:, head] = found[part][:, head]
                return qkv

            with _tapped(layer.attn, put):
                yield f"{label}.{name}", trial.run(n)


def _stacked(change: Mapping[str, Stream], writers: list[str]) -> Copies:
    return torch.cat([change[writer] for writer in writers])


def _named(writers: list[str], reader: str, effects: Float[Tensor, " edge"]) -> Iterator[tuple[str, float]]:
    return ((f"{writer}->{reader}", float(effect)) for writer, effect in zip(writers, effects, strict=True))


@contextmanager
def _shifted(module: nn.Module, shift: Copies) -> Iterator[None]:
    """Add to the first input of a module, however it is passed."""

    def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0] + shift, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + shift}

    handle = module.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _tapped(attn: Any, edit: Callable[[list[Tensor]], list[Tensor]]) -> Iterator[None]:
    """Show q, k and v of a layer, each with an axis over query heads, before its scores are computed."""
    attn.edge_tap = edit
    try:
        yield
    finally:
        del attn.edge_tap


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    normaliser: str = "softmax",
    **_: Any,
) -> tuple[Tensor, Tensor]:
    n_rep = query.shape[1] // key.shape[1]
    q, k, v = getattr(module, "edge_tap", list)([query, repeat_kv(key, n_rep), repeat_kv(value, n_rep)])
    pattern = attention_pattern(attention_scores(q, k, scaling, mask=attention_mask), normaliser=normaliser)
    return z_from_pattern(pattern, v), pattern


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)
