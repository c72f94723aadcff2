"""One run of the untouched model, with everything that later runs begin with or look back at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.adapters.registry import SITES, compute, is_written_out
from interp.hooks.batch import Batch
from interp.hooks.capture import Recorder
from interp.hooks.names import point_name
from interp.hooks.rerun.attention import Call
from interp.hooks.rerun.restart import Tail, attending, layers, output_layer, replaced, side_modules, tail
from interp.hooks.rerun.tree import Tree


@dataclass(eq=False)
class Record:
    """What one forward of a batch left behind.

    Attributes:
        output: of the model.
        named: activations by hook name [batch pos ...].
        width, d_model: tokens of a prompt as the layers see them, padding included, and numbers of the stream.
        calls: what each layer's attention was called with.
        layer_tails, attention_tails: what these modules returned beside their first tensor, see `restart.tail`.
        attention_outputs: the first tensor of the attention modules of edited layers [batch pos d].
        side_outputs: what modules of other towers returned before the main one began: no edit of its layers reaches it.
    """

    batch: Batch
    output: Tensor
    named: Mapping[str, Tensor]
    width: int = 0
    d_model: int = 0
    calls: dict[int, Call] = field(default_factory=dict)
    layer_tails: dict[int, Tail] = field(default_factory=dict)
    attention_tails: dict[int, Tail] = field(default_factory=dict)
    attention_outputs: dict[int, Tensor] = field(default_factory=dict)
    side_outputs: dict[nn.Module, Any] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """What it holds."""
        calls = (tensor for call in self.calls.values() for tensor in (call.k, call.v, call.mask) if tensor is not None)
        side = (leaf for leaf in tree_leaves(list(self.side_outputs.values())) if isinstance(leaf, Tensor))
        tensors = (*self.named.values(), *self.attention_outputs.values(), *calls, *side)
        held = {id(t.untyped_storage()): t for t in tensors}
        return self.output.untyped_storage().nbytes() + sum(t.untyped_storage().nbytes() for t in held.values())


@torch.no_grad()
def record(
    adapter: HuggingFaceAdapter,
    batch: Batch,
    names: Iterable[str],
    edited: Iterable[int],
    first: int = 0,
    head: Callable[[Tensor], Tensor] | None = None,
) -> Record:
    """Run a batch once and keep named activations, and what every layer from `first` on needs to run again.

    Args:
        edited: layers whose attention output is kept.
        head: what runs in place of the output layer.
    """
    recorder = Recorder()
    found = Record(batch, torch.empty(0), {})
    modules = layers(adapter)
    entries = [point_name("hook_resid_pre", layer) for layer in range(first, len(modules))]
    with ExitStack() as stack:
        for index, module in enumerate(modules):
            _keep_output(stack, module, found.layer_tails, None, index)
        for module in side_modules(adapter):
            stack.callback(module.register_forward_hook(partial(_keep_side, found)).remove)
        for index in sorted(set(edited)):
            _keep_output(stack, adapter.block(index).attn, found.attention_tails, found.attention_outputs, index)
        stack.enter_context(adapter.attached({name: [recorder] for name in dict.fromkeys([*entries, *names])}, batch))
        functions = {layer: partial(_remember, found.calls, layer) for layer in adapter.towers[""].blocks}
        stack.enter_context(attending(adapter, functions, masks=True))
        if head is not None:
            stack.enter_context(replaced(output_layer(adapter), head))
        found.output = adapter.forward(batch.inputs)
    found.side_outputs = {module: output for module, output in found.side_outputs.items() if output is not None}
    found.named = recorder.tensors()
    _, found.width, found.d_model = found.named[entries[0]].shape
    return found


def _keep_output(
    stack: ExitStack, module: nn.Module, tails: dict[int, Tail], values: dict[int, Tensor] | None, index: int
) -> None:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        tails[index] = tail(output)
        if values is not None:
            values[index] = output if isinstance(output, Tensor) else output[0]

    stack.callback(module.register_forward_hook(keep).remove)


def _keep_side(found: Record, module: nn.Module, _: Any, output: Any) -> None:
    alone = not found.layer_tails and module not in found.side_outputs
    found.side_outputs[module] = tree_map(lambda leaf: leaf, output) if alone else None  # the model may change its own


def _remember(
    calls: dict[int, Call],
    layer: int,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    site = SITES[module]
    calls[layer] = Call(
        key.transpose(1, 2).flatten(0, 1),
        value.transpose(1, 2).flatten(0, 1),
        attention_mask,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        options,
        is_written_out(site, options),
    )
    return compute(site, module, query, key, value, attention_mask, scaling, dropout, **options)


@dataclass(frozen=True, eq=False)
class NodeView:
    """A record as the nodes of a tree see it: every prompt that shares a node sees the same numbers."""

    record: Record
    tree: Tree

    @cached_property
    def flat(self) -> Tensor:
        return torch.from_numpy(self.tree.flat).to(self.record.output.device)

    @cached_property
    def path(self) -> Tensor:
        return torch.from_numpy(self.tree.path.clip(min=0)).to(self.record.output.device)

    @cached_property
    def real(self) -> Tensor:
        """Tokens that have a node [batch pos]."""
        return torch.from_numpy(self.tree.path >= 0).to(self.record.output.device)

    def nodes(self, value: Shaped[Tensor, "batch pos ..."]) -> Shaped[Tensor, "node ..."]:
        """A value at every node; a view where every token is one."""
        return value.flatten(0, 1) if self.tree.is_whole else value.flatten(0, 1)[self.flat]

    def tokens(self, value: Shaped[Tensor, "node ..."]) -> Shaped[Tensor, "batch pos ..."]:
        """The value of each token's node; padding holds numbers without meaning."""
        return value[self.path]
