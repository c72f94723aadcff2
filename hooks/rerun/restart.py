"""A forward that begins at a layer and may end before its output: the one place that takes a model's layers over.

Blocks before the first one hand their input on, so that masks, rotary tables, norms and output layer stay the model's
own code. What a forward needs only part of is cut off by an exception that this file raises and catches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from interp.hooks.adapters import registry
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.adapters.registry import SITES, attend

NAME = "interp_rerun"

Attention = Callable[..., tuple[Tensor, Tensor | None]]
Tail = tuple[Any, ...] | None


class Reached(Exception):
    """What was wanted of a forward has been computed; the rest would be waste."""


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are those of the recorded run; making others would cost time and memory."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)


def layers(adapter: HuggingFaceAdapter, tower: str = "") -> list[nn.Module]:
    """The layers of a tower, with and without attention."""
    return list(adapter.model.get_submodule(adapter.towers[tower].path).children())


def side_modules(adapter: HuggingFaceAdapter) -> list[nn.Module]:
    """The largest modules that hold other towers and nothing of the main one, such as what makes features of images."""
    main = adapter.towers[""].path.split(".")
    paths = set()
    for tower in (tower for name, tower in adapter.towers.items() if name):
        parts = tower.path.split(".")
        common = next(n for n, part in enumerate(parts) if main[n : n + 1] != [part])
        paths.add(".".join(parts[: common + 1]))
    return [adapter.model.get_submodule(path) for path in sorted(paths)]


def output_layer(adapter: HuggingFaceAdapter) -> Any:
    """The linear layer whose outputs are logits; None where the model has none."""
    model: Any = adapter.model
    return model.get_output_embeddings()


FUSED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "NewGELUActivation": partial(nn.functional.gelu, approximate="tanh"),
}
"""Activations that transformers writes out, and the one operation that computes the same: no temporaries."""


def written_out(adapter: HuggingFaceAdapter) -> list[nn.Module]:
    """The activations of a model that `FUSED` knows."""
    return [module for module in adapter.model.modules() if type(module).__name__ in FUSED]


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A module whose forward is another function inside the block; its hooks stay in force."""
    before = module.__dict__.get("forward")
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def read_only_at(adapter: HuggingFaceAdapter, read_at: Int[Tensor, " batch"]) -> Iterator[None]:
    """The output layer runs at one position of each prompt alone: logits are [batch 1 d_vocab] inside the block."""
    head = output_layer(adapter)
    forward = head.forward

    def narrow(hidden: Tensor) -> Any:
        rows = torch.arange(len(hidden), device=hidden.device)
        return forward(hidden[rows, read_at.to(hidden.device)][:, None])

    with replaced(head, narrow):
        yield


def tail(output: Any) -> Tail:
    """What a module returned beside its first tensor; None where it returned that alone."""
    if isinstance(output, Tensor):
        return None
    return tuple(None if isinstance(other, Tensor) else other for other in output[1:])  # nobody here reads tensors


def like(tail: Tail, value: Tensor) -> Any:
    """Another first tensor in a module's kind of output."""
    return value if tail is None else (value, *tail)


@contextmanager
def entered(
    adapter: HuggingFaceAdapter, layer: int, hidden: Tensor, tails: Mapping[int, Tail], tower: str = ""
) -> Iterator[None]:
    """Forwards inside the block begin at `layer` with this hidden state [batch pos d_model].

    Args:
        layer: the first that runs; the number of layers, where none does.
        tails: what each layer returned beside its hidden state, see `tail`.
    """
    with ExitStack() as stack:
        modules = layers(adapter, tower)
        for index, module in enumerate(modules[:layer]):
            last = index == layer - 1
            stack.enter_context(replaced(module, partial(_skip, tails[index], hidden if last else None)))
        if layer == 0:
            stack.callback(modules[0].register_forward_pre_hook(partial(_enter, hidden), with_kwargs=True).remove)
        yield


def _skip(tail: Tail, hidden: Tensor | None, *args: Any, **kwargs: Any) -> Any:
    """What a layer that does not run returns: its input, or the state with which the next one begins."""
    given = args[0] if args else kwargs["hidden_states"]
    return like(tail, given if hidden is None else hidden)


def _enter(
    hidden: Tensor, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


@contextmanager
def attending(
    adapter: HuggingFaceAdapter, functions: Mapping[int, Attention], *, masks: bool = False, tower: str = ""
) -> Iterator[None]:
    """Layers of a tower call these functions in place of attention; masks are made only where asked for."""
    configs = [(config, config._attn_implementation_internal) for config in adapter.configs]
    sites = {layer: SITES[adapter.block(layer, tower).attn] for layer in functions}
    try:
        for layer, function in functions.items():
            sites[layer].instead = function
        for config, _ in configs:
            config._attn_implementation_internal = registry.NAME if masks else NAME
        yield
    finally:
        for config, name in configs:
            config._attn_implementation_internal = name
        for site in sites.values():
            site.instead = None


def stop_at_entry(stack: ExitStack, module: nn.Module) -> list[Tensor]:
    """Forwards end where they enter a layer; the list holds its input then."""
    seen: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise Reached

    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    return seen
