"""The general route: variants run from their first edited layer on, whole prompts, with their hooks in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map_only

from interp.hooks.adapters.base import HookContext, HookFn, run_hooks
from interp.hooks.adapters.huggingface import HuggingFaceAdapter
from interp.hooks.batch import Batch
from interp.hooks.names import PointId, point_name
from interp.hooks.rerun.change import Edits, Z
from interp.hooks.rerun.record import Record
from interp.hooks.rerun.restart import Reached, entered, replaced


@dataclass(frozen=True, eq=False)
class LayerRuns:
    """Forwards of a whole recorded batch that begin at a layer."""

    adapter: HuggingFaceAdapter
    record: Record

    @property
    def can_stack(self) -> bool:
        """Whether several variants fit on the batch axis: every input has a row for each prompt."""
        batch = self.record.batch
        return all(len(value) == batch.size for value in batch.inputs.values() if isinstance(value, Tensor))

    @torch.no_grad()
    def outputs(self, layer: int, variants: Sequence[Edits]) -> Float[Tensor, "row ..."]:
        """The output under each variant, prompts of the first variant first."""
        batch = repeated(self.record.batch, len(variants))
        hooks = {point.name: [partial(_each, self.record.batch, functions)] for point, functions in _grouped(variants)}
        with ExitStack() as stack:
            self.enter(stack, layer, len(variants))
            stack.enter_context(self.adapter.attached(hooks, batch))
            return self.adapter.forward(batch.inputs)

    @torch.no_grad()
    def z(self, layer: int, hooks: Edits) -> Float[Tensor, "batch pos head d_head"]:
        """What the heads of a layer put out under these hooks, which are all in that layer's attention."""
        seen: list[Tensor] = []

        def keep(value: Tensor, _: HookContext) -> None:
            seen.append(value)
            raise Reached

        name = point_name(Z, layer)
        by_name: dict[str, list[HookFn]] = {point.name: list(functions) for point, functions in hooks.items()}
        by_name.setdefault(name, []).append(keep)
        with ExitStack() as stack:
            self.enter(stack, layer, 1)
            stack.enter_context(self.adapter.attached(by_name, self.record.batch))
            try:
                self.adapter.forward(self.record.batch.inputs)
            except Reached:
                return seen[0]
        raise AssertionError("the attention of this layer did not run")

    def enter(self, stack: ExitStack, layer: int, n: int) -> None:
        """Until the stack closes, forwards of the batch `n` times over begin at this layer."""
        for module, output in self.record.side_outputs.items():
            stack.enter_context(replaced(module, partial(_returned, stacked(output, n))))
        if layer:
            hidden = self.record.named[point_name("hook_resid_pre", layer)].repeat(n, 1, 1)
            stack.enter_context(entered(self.adapter, layer, hidden, self.record.layer_tails))


def stacked(output: Any, n: int) -> Any:
    """A module's output `n` times over, in containers of its own: whoever gets one may change what is in it."""
    return tree_map_only(Tensor, lambda value: value if n == 1 else value.repeat(n, *[1] * (value.ndim - 1)), output)


def _returned(output: Any, *_: Any, **__: Any) -> Any:
    return output


def repeated(batch: Batch, n: int) -> Batch:
    """The same prompts `n` times over."""
    if n == 1:
        return batch
    inputs = {
        name: value.repeat(n, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value
        for name, value in batch.inputs.items()
    }
    mask = None if batch.mask is None else batch.mask.repeat(n, 1)
    spans = {role: rows * n for role, rows in batch.spans.items()}
    return replace(batch, inputs=inputs, mask=mask, truncated=batch.truncated * n, spans=spans)


def _grouped(variants: Sequence[Edits]) -> list[tuple[PointId, list[Sequence[HookFn]]]]:
    """For each point that any variant edits, the hooks of every variant."""
    points = sorted({point for hooks in variants for point in hooks}, key=lambda point: point.name)
    return [(point, [hooks.get(point, ()) for hooks in variants]) for point in points]


def _each(batch: Batch, functions: Sequence[Sequence[HookFn]], value: Tensor, context: HookContext) -> Tensor:
    """Each variant's own hooks on its own rows."""
    parts = []
    for index, (hooks, part) in enumerate(zip(functions, value.chunk(len(functions)), strict=True)):
        allowed = context.allowed
        if allowed is not None and len(allowed) == len(value):
            allowed = allowed[: len(part)]  # every variant runs the same prompts
        call = None if context.call is None else context.call.rows(index * len(part), (index + 1) * len(part))
        parts.append(run_hooks(hooks, part, replace(context, batch=batch, allowed=allowed, call=call), Counter()))
    return torch.cat(parts)
