"""Attention sinks that are turned down while a model reads and while it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.hooks.adapters.base import HookContext
from interp.hooks.batch import Batch
from interp.hooks.edits import replace_rows, shared_out, visible
from interp.hooks.interventions.base import Hook, Intervention, by_layer
from interp.hooks.names import point_name
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True)
class Calibrate(Intervention):
    """ACT: columns that hold more than `threshold` of the rows that may see them, but the first such one, keep `beta`
    of what each row gives them; the rest goes to the row's other keys in proportion.

    Yu et al. 2024, arXiv 2406.15765. In one forward it is the operator `sink-calibration` of `interp.kernels.variants`.
    While a model writes, the columns are those of the prompt, found when it is read, and what is written is judged by
    them. The published code judges a single row of cached decoding by itself and sets its first key to 1, after which
    the row sums to more than 1; here every row sums to what it did before.

    Args:
        heads: labels or 'all'.
        threshold: mean weight of a column, over the queries that may see it, from which it is a sink.
        beta: what a sink keeps; 1 changes nothing.

    Raises:
        InterpError: E205 a threshold or beta outside 0 to 1.
    """

    heads: Any
    threshold: float = 0.1
    beta: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.threshold <= 1 and 0 <= self.beta <= 1):
            raise InterpError("E205", f"threshold={self.threshold}, beta={self.beta}", fix="both from 0 to 1")

    def hooks(self, model: HookedModel, batch: Batch) -> list[Hook]:
        def calm(pattern: Tensor, context: HookContext) -> Tensor:
            sinks = self._sinks(batch, pattern, context)[:, :, None, :]
            return shared_out(pattern, sinks, ~sinks, 1 - self.beta)

        return [
            (point_name("attn.hook_pattern", layer, tower), replace_rows(batch, heads, None, calm))
            for (tower, layer), heads in by_layer(self.heads, model.heads).items()
        ]

    def _sinks(self, batch: Batch, pattern: Tensor, context: HookContext) -> Bool[Tensor, "batch head key_pos"]:
        """The prompt's sinks among all keys."""
        memory = {} if batch.memory is None else batch.memory
        if not context.is_decoding:
            memory[self, context.name] = self._found(batch, pattern, context)
        sinks: Tensor = memory[self, context.name]
        return torch.nn.functional.pad(sinks, (0, pattern.shape[-1] - sinks.shape[-1]))

    def _found(
        self, batch: Batch, pattern: Float[Tensor, "batch head pos pos"], context: HookContext
    ) -> Bool[Tensor, "batch head prompt_pos"]:
        """Columns of the prompt that are turned down."""
        n = pattern.shape[-1] - (0 if context.point.tower else batch.written)
        seen = visible(pattern, context)[:, :, :n, :n]
        if batch.mask is not None and not context.point.tower:
            seen = seen * batch.mask[:, None, :n, None].to(seen.device)
        mean = (pattern[:, :, :n, :n] * seen).sum(2) / seen.sum(2).clamp(min=1)
        found = mean > self.threshold
        return found & (found.cumsum(-1) > 1)
